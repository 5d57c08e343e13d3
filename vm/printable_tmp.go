package vm

// Printable cuts a text of the guest and replaces what a terminal would act upon.
func Printable(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit]
	}
	return printable([]byte(text))
}
