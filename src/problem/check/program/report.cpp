#include <cstring>
#include <unistd.h>
static void NAMESay(const char *word) {
    char line[18];
    line[0] = line[17] = '\n';
    ::memcpy(line + 1, word, 16);
    if (::write(1, line, 18) != 18) ::_exit(3);
}
static void NAME(bool holds, const char *yes, const char *no, bool real) {
    NAMESay(holds ? yes : no);
    if (real && !holds) ::_exit(1);
}
static void NAMEEnd() { NAMESay("END"); }
