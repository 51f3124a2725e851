package terminal

// For tests of what is shown, and of what a pager is told.
var (
	Wrap = wrap
	Told = pagerEnvironment
)
