/** What everything that is held has in common: a Hold, and what recipes make of one. */
import type { Duration } from 'luxon'
import type { Token } from './token.ts'

/** Held until it is released or lost, exactly once; never held again. Guards, gates and `using` take any of them. */
export interface Held extends AsyncDisposable {
  readonly holder: string
  /** Of this term: unchanged for as long as it is held. */
  readonly fencingToken: bigint
  /** For `token.check(key)` before a guarded write. It is of this term: in a later one of the same holder it does not pass. */
  readonly token: Token
  /** Whether the holder may rely on it now. Reads the clocks; never trusts a timer. */
  readonly held: boolean
  /** Aborts no later than the trust window ends; the reason is an `ErrLost`. After a release it aborts with a plain AbortError. */
  readonly signal: AbortSignal
  /**
   * Whether it excludes everybody else: a lease does, and a share that takes the whole capacity of its counted lease. Absent: it does.
   *
   * @throws ErrUnknown
   */
  isExclusive?(): Promise<boolean>
  /** How long it may be relied on from now on, unless it is renewed; zero when it is over. */
  remaining(): Duration
  /** @throws ErrLost when it is not held any more, by loss or by release */
  assertHeld(): void
  /**
   * Gives it up, and this term only. It is over either way, and a second release sends nothing.
   *
   * @throws ErrNotHeld  another has it already, or another process of this name has adopted it (reason `adopted`)
   * @throws ErrUnknown  it may have happened; if not, it lapses by itself
   */
  release(): Promise<void>
}
