/**
 * A Hold that outlives a crash of its holder: the lease is pinned, so that only its release or an operator frees it.
 *
 *     claim ──▶ pin, by an entity of this term alone ──▶ returned to the caller
 *       │ crash: it expires   │ crash, or an unknown outcome: it stays closed until an operator frees it
 *
 *     unpin ──▶ release
 *       │ crash: it expires, or has expired
 *
 * The claim comes first: only a holder pins a lease. So a process that only tried, or crashed while it tried, neither pins another's lease
 * nor a vacant one. The lock is returned only if the claimed term still stood after the pin was set. On release the pin is withdrawn first,
 * for the same reason. The pin has the name of the holder, which is different for each term: so no withdrawal opens another lock.
 *
 * The lease is renewed like any Hold, and the renewals show what became of it. If they fail (the store is out of reach, this process was
 * paused), the lock is *not* lost, because the pin keeps it: the holder asks until it knows.
 */
import {
  abortController,
  ErrClaimDenied,
  ErrLost,
  ErrNotHeld,
  ErrStopped,
  ErrUnknown,
  MAX_DURATION_MS,
} from 'lease-core'
import type { Clock, Hold, HoldOptions, Manager, Token } from 'lease-core'
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
  /** Called with failures while the lock stays closed. */
  readonly onError: (cause: unknown) => void
}

/**
 * Claims the lease and pins it.
 *
 * @throws ErrClaimDenied another holds it, or still did when the wait ran out
 * @throws ErrUnknown     the lease may be held and pinned; it then stays held until an operator frees it
 */
export async function holdPinned(request: PinnedHoldRequest): Promise<PinnedHold> {
  const { manager, lease, holder, options, waitMs } = request
  const hold = await waitThenTry((wait) => manager.hold(lease, holder, { ...options, wait }), waitMs)
  try {
    await manager.pin(lease, holder)
    if (hold.held) return new PinnedHold(request, hold)
    // The pin may have been set after the term ended: it then protects a vacant lease or another term.
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
    await manager.unpin(lease, holder).catch(() => {}) // if it fails, the lock may stay closed
    await vacate(request, hold).catch(() => {})
    throw error
  }
}

/** Ends the term, whether or not its Hold is still held. */
function vacate({ manager, lease, holder }: PinnedHoldRequest, hold: Hold): Promise<void> {
  return hold.held ? hold.release() : manager.release(lease, holder)
}

export class PinnedHold {
  readonly fencingToken: bigint
  readonly #request: PinnedHoldRequest
  readonly #controller = abortController()
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

  /** True until it is released, or until this process learns that an operator freed it. */
  get held(): boolean {
    return !this.signal.aborted
  }

  /** The longest duration while it is held: it does not expire. */
  remaining(): Duration {
    return Duration.fromMillis(this.held ? MAX_DURATION_MS : 0)
  }

  /** Aborts with an `ErrLost` when an operator freed it, with an AbortError when its release begins. */
  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /**
   * Releases the lease. After `ErrUnknown` call it again: until it resolves, the lock may stay closed.
   *
   * @throws ErrNotHeld an operator freed it, or another holds it now
   * @throws ErrUnknown the lease may have been released
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
    // An operator may have freed it; the news may or may not have arrived.
    const freed = this.#hold.held ? await this.#refusal() : this.#refusalHeard()
    if (freed !== undefined) throw freed
    // Otherwise the lease may have expired since it was unpinned, and be another's: that is no error.
    await vacate(this.#request, this.#hold).catch(unlessGone)
    this.#release = 'done'
  }

  /** Ends this object without a release. The lease stays pinned, and its Hold goes on until the manager stops. */
  forget(reason: Error): void {
    this.#controller.abort(reason)
  }

  /** Asks the store whether this term is over; undefined when it stands. */
  async #refusal(): Promise<ErrNotHeld | undefined> {
    try {
      await this.token.check()
      return undefined
    } catch (error) {
      if (error instanceof ErrNotHeld) return error
      throw error
    }
  }

  /** Whether the Hold knows that this term is over; undefined when that is not certain. */
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
      this.#request.onError(loss)
      void this.#ask()
    }
  }

  /** Asks until it is known whether the term stands; if it does, renews it as before. */
  async #ask(): Promise<void> {
    const { manager, clock, lease, holder, options, onError } = this.#request
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
        await hold.release().catch(() => {}) // freed since the check: this is another term
        this.#lose('revoked')
      } catch (error) {
        if (!this.held) return
        if (error instanceof ErrNotHeld) this.#lose(error.reason === 'vacant' ? 'revoked' : 'taken', error)
        else if (error instanceof ErrClaimDenied) this.#lose('taken', error)
        else if (error instanceof ErrStopped) this.#lose('unreachable', error)
        else {
          onError(error)
          await pauseAfter(failures, { clock, mostMs: 30_000, signal: this.signal })
        }
      }
    }
  }

  #lose(reason: keyof typeof words, cause?: unknown): void {
    const { lease, holder } = this.#request
    const message = `lease "${lease}" of "${holder}" is not held any more: ${words[reason]}`
    this.#lost(new ErrLost(message, { lease, holder, reason, cause }))
  }

  #lost(loss: ErrLost): void {
    const { manager, lease, holder } = this.#request
    this.#controller.abort(loss)
    // Our pin may still be set, and would keep the next holder's lease from expiring.
    if (isCertain(loss)) manager.unpin(lease, holder).catch(() => {})
  }
}

/** Whether the store reported the loss; otherwise the pin keeps the lease, as far as is known. */
function isCertain({ reason }: ErrLost): boolean {
  return reason === 'revoked' || reason === 'taken'
}

const words = {
  taken: 'it was freed, and another holds it',
  revoked: 'it was freed',
  unreachable: 'the manager was stopped, and nobody asks any more whether it is',
}
