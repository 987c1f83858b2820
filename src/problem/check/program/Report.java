final class NAME {
    private static final java.io.FileOutputStream OUT = new java.io.FileOutputStream(java.io.FileDescriptor.out);

    private static void say(String word) {
        try {
            OUT.write(("\n" + word + "\n").getBytes());
        } catch (java.io.IOException e) {
            Runtime.getRuntime().halt(3);
        }
    }

    static boolean report(boolean holds, String yes, String no) {
        say(holds ? yes : no);
        return holds;
    }

    static void end() {
        say("END");
    }
}
