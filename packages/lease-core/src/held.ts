/** What everything that is held has in common: a Hold, and the locks, permits and terms of the recipes. */
import type { Duration } from 'luxon'
import type { Token } from './token.ts'

/** Held until it is released or lost, exactly once; never held again. Guards, gates and `using` accept every `Held`. */
export interface Held extends AsyncDisposable {
  /** The name under which it is held. */
  readonly holder: string
  /** Of this term. Higher than those of all earlier terms of the lease; renewals do not change it. */
  readonly fencingToken: bigint
  /** For `token.check(key)` before a guarded write. It is of this term: it does not pass in a later term of the same holder. */
  readonly token: Token
  /** Whether the holder may rely on it now. Reads the clocks when called, so it is right also after a pause. No I/O. */
  readonly held: boolean
  /**
   * Aborts with an `ErrLost` when it is lost, no later than the trust window ends, if the event loop runs. A Hold's is right at each
   * new reading of this property, also after a pause. Aborts with an AbortError (a `DOMException`) when it is released.
   */
  readonly signal: AbortSignal
  /**
   * Whether it excludes all others: true for a lease, and for the only share of a counted lease if it takes the whole
   * capacity. Absent: true.
   *
   * @throws ErrNotHeld the term of the share is over
   * @throws ErrUnknown the store could not be asked
   */
  isExclusive?(): Promise<boolean>
  /** How long the holder may rely on it from now, without a renewal; zero when it is over. Reads the clocks. */
  remaining(): Duration
  /** @throws ErrLost it is over, by loss or by release */
  assertHeld(): void
  /**
   * Releases this term, and no other. From the call on it is over in this process, whatever the outcome. A second call sends nothing;
   * nor does one after a loss: what the store still has then expires by itself.
   *
   * @throws ErrNotHeld another holds it; or another process of this holder name has adopted the term (reason `adopted`)
   * @throws ErrUnknown it may have been released; if not, it expires by itself
   */
  release(): Promise<void>
}
