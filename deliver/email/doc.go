// Package email sends notifications as mail, through one SMTP server that the operator has named.
//
// A mail is one attempt: it is accepted when the server has taken its data, whatever becomes of
// it behind that server. Everything before that is a failed attempt like that of any channel, and
// is tried again and dead-lettered in the same way. Its Message-ID is the identity of the
// notification, so a repeat after an answer that was lost can be told from a second event.
//
// The subject names the Subscription and the kind of event at most: it is shown on locked screens
// and kept in the logs of every relay. What is in the resource stands in the body alone, and only
// where the Subscription asks for a payload.
//
// No more connections are open at once than Options.Connections. A notification that finds none
// free waits, and if its time is over before one is, it spends no attempt: a slow mail server
// delays mail and nothing else.
//
// Notify sends a notice to the operator's own people, outside of all Subscriptions (notice.go).
//
// Start reading at channel.go (one send), then message.go (what is in a mail).
package email
