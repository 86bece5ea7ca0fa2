// Package hook lets a program that embeds a node take part in what it does: an Interceptor sees
// changes before and after they are matched, and notifications before and after they are sent,
// may stop them, and may change what is sent. It is given to node.New with
// node.WithInterceptors.
//
// Order. Interceptors are called in the order in which they were given, for every hook. Each sees
// what those before it have changed; the first that objects ends it, and the rest are not asked.
// For one match the order of hooks is BeforeMatch, AfterMatch; then for each attempt
// BeforeDelivery, BeforeMessage (where a message is published), and AfterDelivery or AfterFailure.
//
// Repetition. Every hook may be called more than once for the same thing: a change is matched
// again when its partition moves or a node is killed, an attempt is made again when its outcome
// was not stored. What a hook does elsewhere must bear that, as a receiver must.
//
// Agreement. Only the node that owns a partition calls BeforeMatch and AfterMatch, and the block
// that it writes is what all nodes go by, so nodes never differ in what matched. But any node may
// be the owner. So every node must have the same interceptors, and their answer should be a
// function of the change alone, or it will depend on who happened to be asked. They may object to
// what is resent by hand or triggered as well; criteria are then asked about the state that is
// stored, whatever BeforeMatch puts in its place. $explain asks the criteria alone.
//
// Failure. An error that is no veto, or a panic, concerns the one change or match that was asked
// about, and never the node. In BeforeMatch the change is set aside (fhir.dead.ingest), in
// AfterMatch for that Subscription alone; in BeforeDelivery and BeforeMessage the match becomes a
// dead letter (render_error) without a further attempt, unless the error wraps ErrRetry. A panic in
// AfterDelivery or AfterFailure is logged and changes nothing. The text of an error goes into the
// log and into the reasons of dead letters, so it must hold nothing of the resource.
//
// Time. A hook has the time that the evaluation (ten seconds) or the attempt (the channel's
// timeout) has left, and must heed its context: nobody can stop it from outside, and while a
// matching hook waits its partition does.
package hook
