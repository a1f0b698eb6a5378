/** A worker that does nothing, and does not end by itself. */
import { nowMs, record, workerEntry } from 'lease-chaos/worker'

workerEntry()
record({ what: 'began', atMs: nowMs(), detail: String(process.pid) })
setInterval(() => {}, 1_000_000)
