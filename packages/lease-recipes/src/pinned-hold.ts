/**
 * A Hold that does not end when its holder does: the lease is pinned, so that only its release or a person frees it.
 *
 *     claim ──▶ pin, by an entity of this term's own ──▶ handed over
 *       │ crash: it lapses    │ crash, or nobody knows: it stays closed until a person frees it
 *
 *     unpin ──▶ release
 *       │ crash: it lapses, or has lapsed
 *
 * The claim comes first: a lease is pinned only by one who holds it, so nobody who merely tried, or crashed while he
 * tried, keeps another's lease from lapsing or leaves a pin on a vacant one. It is handed over only if the very term that
 * was claimed still stood when the pin had been put on. The pin is withdrawn first, for the same reason. It bears the name
 * of the holder, of which there is one for each term: nobody's withdrawal opens another's lock.
 *
 * While it lives it renews like any Hold, and thereby finds out what became of it. When it cannot (the store is out of
 * reach, this process was asleep) it is *not* lost, for the pin keeps it: it asks until it knows.
 */
import { ErrClaimDenied, ErrLost, ErrNotHeld, ErrStopped, ErrUnknown, MAX_DURATION_MS } from 'lease-core'
import type { Clock, Hold, HoldOptions, LossReason, Manager, Token } from 'lease-core'
import { Duration } from 'luxon'
import { whenAborted } from './or-aborted.ts'
import { pauseAfter } from './retry.ts'
import { waitThenTry } from './try-then-wait.ts'
import { unlessGone } from './unless-gone.ts'

export interface PinnedHoldRequest {
  readonly manager: Manager
  readonly clock: Clock
  readonly lease: string
  readonly holder: string
  readonly options: Omit<HoldOptions, 'wait'>
  readonly waitMs: number
  /** Told of what went wrong while the lock stays closed. */
  readonly troubled: (cause: unknown) => void
}

/**
 * Claims the lease and pins it.
 *
 * @throws ErrClaimDenied another holds it, or still did when the wait ran out
 * @throws ErrUnknown     it may have happened, and then the lease stays held until a person frees it
 */
export async function holdPinned(request: PinnedHoldRequest): Promise<PinnedHold> {
  const { manager, lease, holder, options, waitMs } = request
  const hold = await waitThenTry((wait) => manager.hold(lease, holder, { ...options, wait }), waitMs)
  try {
    await manager.pin(lease, holder)
    if (hold.held) return new PinnedHold(request, hold)
    // The pin may have come after the term, and then protects a vacant lease or another's.
    const loss: unknown = hold.signal.reason
    if (loss instanceof ErrLost && isCertain(loss)) {
      throw new ErrClaimDenied(`lease "${lease}" was taken from "${holder}" before it was pinned`, {
        lease,
        holder,
        cause: loss,
      })
    }
    throw new ErrUnknown(`lease "${lease}" was claimed, but it took too long to pin it`, { lease, holder, cause: loss })
  } catch (error) {
    await manager.unpin(lease, holder).catch(() => {}) // nobody can tell, then, and it may stay closed
    await vacate(request, hold).catch(() => {})
    throw error
  }
}

/** Ends the term whether or not its Hold still lives. */
function vacate({ manager, lease, holder }: PinnedHoldRequest, hold: Hold): Promise<void> {
  return hold.held ? hold.release() : manager.release(lease, holder)
}

export class PinnedHold {
  readonly fencingToken: bigint
  readonly #request: PinnedHoldRequest
  readonly #controller = new AbortController()
  #hold: Hold
  /** How far a release has come. */
  #release: 'not begun' | 'unpinned' | 'done' = 'not begun'

  constructor(request: PinnedHoldRequest, hold: Hold) {
    this.#request = request
    this.#hold = hold
    this.fencingToken = hold.fencingToken
    this.#watch(hold)
  }

  get token(): Token {
    return this.#hold.token
  }

  /** Until it is released, or this process learns that a person freed it. */
  get held(): boolean {
    return !this.signal.aborted
  }

  /** As long as there is, while it is held: it does not end by itself. */
  remaining(): Duration {
    return Duration.fromMillis(this.held ? MAX_DURATION_MS : 0)
  }

  /** Aborts with an `ErrLost` when a person freed it, with a plain AbortError when its release begins. */
  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /**
   * Vacates the lease. When it rejects with `ErrUnknown`, call it again: until it resolves, the lock may stay closed.
   *
   * @throws ErrNotHeld a person freed it, or another has it by now
   * @throws ErrUnknown it may have happened
   */
  async release(): Promise<void> {
    if (this.#release === 'done') return
    this.#controller.abort(new DOMException('the lock was released', 'AbortError'))
    const { manager, lease, holder } = this.#request
    if (this.#release === 'not begun') {
      const freed = this.#hold.held ? undefined : await this.#refusal()
      await manager.unpin(lease, holder)
      if (freed !== undefined) throw freed
      this.#release = 'unpinned'
    }
    // A person may have freed it meanwhile; the news of that may have come, or not.
    const freed = this.#hold.held ? await this.#refusal() : this.#refusalHeard()
    if (freed !== undefined) throw freed
    // Otherwise the lease may have lapsed since it was unpinned and be another's, and nothing has gone wrong.
    await vacate(this.#request, this.#hold).catch(unlessGone)
    this.#release = 'done'
  }

  /** Nothing is asked any more. The lease stays pinned; a Hold under way goes on until the manager stops. */
  forget(reason: Error): void {
    this.#controller.abort(reason)
  }

  /** What the store says against our term; undefined when it stands. */
  async #refusal(): Promise<ErrNotHeld | undefined> {
    try {
      await this.token.check()
      return undefined
    } catch (error) {
      if (error instanceof ErrNotHeld) return error
      throw error
    }
  }

  /** What the Hold has been told against our term; undefined when nobody knows anything. */
  #refusalHeard(): ErrNotHeld | undefined {
    const loss: unknown = this.#hold.signal.reason
    if (!(loss instanceof ErrLost && isCertain(loss))) return undefined
    const { lease, holder } = this.#request
    const message = `"${holder}" cannot release lease "${lease}": ${loss.message}`
    return new ErrNotHeld(message, { lease, holder, reason: loss.reason, cause: loss })
  }

  #watch(hold: Hold): void {
    whenAborted(hold.signal, () => this.#ended(hold.signal.reason))
  }

  #ended(loss: unknown): void {
    if (this.signal.aborted || !(loss instanceof ErrLost)) return
    if (isCertain(loss) || loss.cause instanceof ErrStopped) this.#lost(loss)
    else {
      this.#request.troubled(loss)
      void this.#ask()
    }
  }

  /** Asks until it is known whether the term stands; if so, it is renewed from then on as before. */
  async #ask(): Promise<void> {
    const { manager, clock, lease, holder, options, troubled } = this.#request
    for (let failures = 1; this.held; failures++) {
      try {
        await this.token.check()
        if (!this.held) return
        const hold = await manager.hold(lease, holder, { ...options, signal: this.signal })
        if (hold.fencingToken === this.fencingToken) {
          this.#hold = hold
          this.#watch(hold)
          return
        }
        await hold.release().catch(() => {}) // it was freed since the check, and this is another term
        this.#lose('revoked')
      } catch (error) {
        if (!this.held) return
        if (error instanceof ErrNotHeld) this.#lose(error.reason === 'vacant' ? 'revoked' : 'taken', error)
        else if (error instanceof ErrClaimDenied) this.#lose('taken', error)
        else if (error instanceof ErrStopped) this.#lose('unreachable', error)
        else {
          troubled(error)
          await pauseAfter(failures, { clock, mostMs: 30_000, signal: this.signal })
        }
      }
    }
  }

  #lose(reason: LossReason, cause?: unknown): void {
    const { lease, holder } = this.#request
    const message = `lease "${lease}" of "${holder}" is not held any more: ${words[reason]}`
    this.#lost(new ErrLost(message, { lease, holder, reason, cause }))
  }

  #lost(loss: ErrLost): void {
    const { manager, lease, holder } = this.#request
    this.#controller.abort(loss)
    // Whoever freed it may have left our pin on it, and it would keep the next one's lease from lapsing.
    if (isCertain(loss)) manager.unpin(lease, holder).catch(() => {})
  }
}

/** Whether the store has said so; otherwise the pin keeps the lease, as far as anybody knows. */
function isCertain({ reason }: ErrLost): boolean {
  return reason === 'revoked' || reason === 'taken'
}

const words: Readonly<Record<LossReason, string>> = {
  expired: 'its time ran out',
  taken: 'it was freed, and another holds it',
  revoked: 'it was freed',
  unreachable: 'nobody asks any more whether it is',
}
