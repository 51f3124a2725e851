package daemon

import "net/http"

// Join has a server keep to the bounds of an audience.
func Join(srv *http.Server) { new(audience).join(srv) }

// InTurns has a handler make as many answers at a time as those that take work.
func InTurns(h http.Handler) http.Handler { return make(turns, maxAnswers).of(h) }
