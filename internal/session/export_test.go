package session

// Earned is what bytes read give their sender's deadline; no test can send as
// many as would overflow it.
var Earned = earned
