package mailbox

// Standing tells who brought a message, by the spool's word.
var Standing = standing
