/** A claim of any one of several leases, in one request to the store. */
import type { ElapsedTime } from './elapsed-time.ts'
import { ErrInvalid, ErrUnknown } from './errors.ts'
import type { LeaseStates } from './lease-states.ts'
import { isSettled, type RoundTrips } from './round-trips.ts'
import type { Sending, Settlement } from './settlement.ts'
import type { InDoubt, StoreLink } from './store-link.ts'
import type { AnyVerdict, Call, ClaimAnyOp } from './substrate.ts'

export interface ClaimAnyParts {
  readonly time: ElapsedTime
  readonly link: StoreLink
  readonly states: LeaseStates
  readonly trips: RoundTrips
  readonly settlement: Settlement
  /** The store's. */
  readonly send: (op: ClaimAnyOp, call: Call) => Promise<AnyVerdict>
}

type Answer = AnyVerdict | { readonly outcome: 'unknown'; readonly cause: unknown }

/**
 * One claim, over its attempts, in its turn on all of its leases. Its answers are merged as those of a read are: reads and renewals
 * of these leases may run at the same time.
 */
export class ClaimAny implements Sending<Answer> {
  doubt: InDoubt | undefined
  readonly #parts: ClaimAnyParts
  readonly #request: Omit<ClaimAnyOp, 'nonce' | 'lapsed'>
  readonly #signal: AbortSignal | undefined
  #nonce: string
  /** Leases for which the last answer was unclear (`lease-states.ts`). */
  #unclear: readonly string[] = []

  constructor(parts: ClaimAnyParts, request: Omit<ClaimAnyOp, 'nonce' | 'lapsed'>, signal: AbortSignal | undefined) {
    this.#parts = parts
    this.#request = request
    this.#signal = signal
    this.#nonce = parts.settlement.newNonce()
  }

  /**
   * Claims the first that is vacant.
   *
   * @returns the lease and its term
   * @throws ErrInvalid, ErrUnknown, the signal's reason: then nothing of it stays behind
   */
  async run(): Promise<{ readonly lease: string; readonly nonce: string; readonly fencingToken: bigint | undefined }> {
    const { settlement, trips } = this.#parts
    const { leases, holder } = this.#request
    try {
      const { outcome, lease, holdings } = await settlement.settle<Answer>(this, this.#signal)
      if (outcome === 'granted' && lease !== undefined) {
        return { lease, nonce: this.#nonce, fencingToken: holdings.get(lease)?.fencingToken }
      }
      if (this.#unclear.length > 0) await trips.readAll(this.#unclear)
      const reason = lease === undefined ? 'all are held' : `"${holder}" has "${lease}" already`
      throw new ErrInvalid(`cannot claim any of ${leases.length} leases: ${reason}`, { lease, holder, reason })
    } catch (error) {
      this.#cleanUp()
      throw error
    }
  }

  /** It was granted, and nobody wants it any more. */
  async withdraw(lease: string): Promise<void> {
    await this.#parts.settlement.withdraw(this.#claimOf(lease))
  }

  async attempt(): Promise<Answer | undefined> {
    if (this.#signal?.aborted === true) return undefined
    const { link, states, trips, time, send } = this.#parts
    const { leases } = this.#request
    const lapsed = new Map<string, string>()
    const now = time.read()
    for (const lease of leases) {
      const version = states.get(lease)?.lapsedVersion(now)
      if (version !== undefined) lapsed.set(lease, version)
    }
    const op: ClaimAnyOp = { ...this.#request, nonce: this.#nonce, lapsed }
    const question = states.open()
    try {
      const answer = await link.call((call) => send(op, call), trips.timeoutMsOf(op))
      if (!isSettled(answer)) return answer
      const answered = time.read()
      const isGranted = answer.outcome === 'granted'
      this.#unclear = (isGranted ? [...answer.holdings.keys()] : leases).filter((lease) => {
        const granted = isGranted && lease === answer.lease
        return !states.learn(lease, answer.holdings.get(lease), { question, now: answered, granted })
      })
      return answer
    } catch (cause) {
      return { outcome: 'unknown', cause }
    } finally {
      states.close(question)
    }
  }

  afresh(): void {
    this.#cleanUp()
    this.#nonce = this.#parts.settlement.newNonce()
    this.doubt = undefined
  }

  unsettled(reason: string, cause?: unknown): ErrUnknown {
    const { leases, holder } = this.#request
    const message = `could not claim any of ${leases.length} leases, it may have happened: ${reason}`
    return new ErrUnknown(message, { holder, reason, cause })
  }

  #cleanUp(): void {
    for (const lease of this.#request.leases) this.#parts.settlement.cleanUp(this.#claimOf(lease), this.doubt)
  }

  #claimOf(lease: string): { lease: string; holder: string; nonce: string; durationMs: number } {
    const { holder, durationMs } = this.#request
    return { lease, holder, nonce: this.#nonce, durationMs }
  }
}
