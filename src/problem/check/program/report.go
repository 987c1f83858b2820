
func NAMESay(word string) {
	r_os.Stdout.WriteString("\n" + word + "\n")
}

func NAME(holds bool, yes string, no string, real bool) {
	if holds {
		NAMESay(yes)
		return
	}
	NAMESay(no)
	if real {
		r_os.Exit(1)
	}
}

func NAMEEqual(got interface{}, want interface{}) bool {
	return r_reflect.DeepEqual(want, got)
}

func NAMEEnd() {
	NAMESay("END")
}
