/** A worker that does nothing but look at its clocks, and spin on command. */
import { nowMs, record, whenTold, workerEntry } from 'lease-chaos/worker'

workerEntry()
whenTold((order) => {
  const { spinMs = 0 } = order as { readonly spinMs?: number }
  const untilMs = nowMs() + spinMs
  record({ what: 'spins', atMs: nowMs() })
  while (nowMs() < untilMs);
})

setInterval(() => {
  // The process's own clock before and after: what lies outside of both was moved.
  const before = process.hrtime.bigint()
  const atMs = nowMs()
  const after = process.hrtime.bigint()
  const detail = JSON.stringify({ beforeMs: Number(before) / 1e6, afterMs: Number(after) / 1e6, wallMs: Date.now() })
  record({ what: 'clocks', atMs, detail })
}, 20)
