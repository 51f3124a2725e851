package relay

var ParseReply = parseReply
