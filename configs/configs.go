// Package configs is the files in this directory that the program itself needs.
package configs

import _ "embed"

// Server is the commented configuration of cmtpd, every setting at its default.
//
//go:embed cmtpd.toml
var Server string
