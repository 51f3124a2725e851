// Package version says which release this is, once for all programs.
package version

// Number is the version of the software, without a v.
const Number = "0.2.0"
