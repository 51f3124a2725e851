package main

// Command is the command line, for tests that hold documents to it.
var Command = command
