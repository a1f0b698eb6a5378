/**
 * One extension of a term, from its request to what becomes of it. It neither opens nor ends a term, so it waits for no turn:
 *
 *     sent ──answer──▶ over
 *       └── given up ──▶ another may be sent; an answer that comes after all still counts
 */
import type { Client, Renewal } from './client.ts'
import type { ClockReading } from './elapsed-time.ts'
import { ErrInvalid, ErrLost, type LossReason } from './errors.ts'
import type { Term } from './term.ts'
import { queueMicrotask } from './turns.ts'

/** Who hears what became of it: exactly one of the two, never from within `send`. */
export interface RenewalListener {
  /** `loss`: why the term is over; undefined: it was extended, and so was its window. */
  extended(renewal: TermRenewal, loss: LossReason | undefined): void
  /** Neither is known. */
  failed(renewal: TermRenewal, error: unknown): void
}

/** What all renewals of one manager share. */
export interface RenewalHost {
  readonly client: Client
  readonly stopping: AbortSignal
  /** The share of the trust window of this term that is left; undefined: nobody listens. */
  margin(term: Term): number | undefined
  /** Why this term is over by what the client knows, or undefined when it stands. */
  lossOf(term: Term): LossReason | undefined
}

export class TermRenewal implements Renewal {
  /** The monotonic instant at which it is given up, for its waiters. */
  giveUpAtMs = 0
  /** The share of the trust window that was left when it was granted; undefined: nobody listens. */
  margin: number | undefined
  readonly durationMs: number
  readonly #host: RenewalHost
  readonly #term: Term
  readonly #value: string | undefined
  readonly #listener: RenewalListener
  #onSlotFree: (() => void) | undefined
  #sent: ClockReading | undefined
  #suspicions = 0

  /**
   * @param value      undefined keeps the old one
   * @param onSlotFree called once when it is over or given up
   */
  constructor(
    host: RenewalHost,
    term: Term,
    { durationMs, value }: { readonly durationMs: number; readonly value: string | undefined },
    listener: RenewalListener,
    onSlotFree?: () => void,
  ) {
    this.#host = host
    this.#term = term
    this.durationMs = durationMs
    this.#value = value
    this.#listener = listener
    this.#onSlotFree = onSlotFree
  }

  /** An instant before it was sent. */
  get sent(): ClockReading | undefined {
    return this.#sent
  }

  get lease(): string {
    return this.#term.lease
  }

  get holder(): string {
    return this.#term.holder
  }

  get fencingToken(): bigint {
    return this.#term.fencingToken
  }

  /** @param now an instant before */
  send(now: ClockReading): void {
    const { client, stopping } = this.#host
    if (stopping.aborted) return queueMicrotask(() => this.#fail(stopping.reason))
    if (this.#term.ended !== undefined) return queueMicrotask(() => this.#fail(lossError(this.#term)))
    this.#sent = now
    this.#suspicions = this.#term.suspicions
    try {
      if (this.#value !== undefined || client.renewLease === undefined) return this.#extend()
      const outcome: unknown = client.renewLease(this)
      // The type allows an async one: that it rejects is its answer.
      if (outcome instanceof Promise) outcome.catch((error: unknown) => this.failed(error))
    } catch (error) {
      queueMicrotask(() => this.#fail(error))
    }
  }

  #extend(): void {
    const { client } = this.#host
    const { lease, holder, fencingToken, nonce } = this.#term
    // Tokens rise: this term is over, and a client that goes by names must not extend the later one.
    if ((client.leases().get(lease)?.fencingToken ?? 0n) > fencingToken)
      return queueMicrotask(() => this.#over('taken'))
    const request = { holder, duration: this.durationMs, value: this.#value, announce: this.#value !== undefined }
    client.extendLease(lease, request, { term: { fencingToken, nonce } }).then(
      () => {
        const loss = this.#host.lossOf(this.#term)
        if (loss === undefined) this.granted()
        else this.#over(loss)
      },
      (error: unknown) => this.failed(error),
    )
  }

  /** Frees its slot. The answer may still come, and then counts. */
  giveUp(): void {
    const onSlotFree = this.#onSlotFree
    this.#onSlotFree = undefined
    onSlotFree?.()
  }

  /** For the client. */
  granted(): void {
    if (this.#term.ended === undefined && this.#sent !== undefined) {
      this.margin = this.#host.margin(this.#term)
      this.#term.confirm(this.#suspicions)
      this.#term.extend({ sent: this.#sent, durationMs: this.durationMs })
    }
    this.#over(undefined)
  }

  /** For the client. */
  failed(error: unknown): void {
    const loss = error instanceof ErrInvalid ? this.#host.lossOf(this.#term) : undefined
    if (loss === undefined) this.#fail(error) // or refused, yet the term stands: ask again
    else this.#over(loss)
  }

  #over(loss: LossReason | undefined): void {
    this.giveUp()
    this.#listener.extended(this, loss)
  }

  #fail(error: unknown): void {
    this.giveUp()
    this.#listener.failed(this, error)
  }
}

/** What those hear who ask for a term that is over. */
export function lossError({ lease, holder, ended }: Pick<Term, 'lease' | 'holder' | 'ended'>): ErrLost {
  const reason = ended?.reason ?? 'revoked'
  const detail = ended?.detail ?? words[reason]
  const message = `lease "${lease}" of "${holder}" is not held any more: ${detail}`
  return new ErrLost(message, { lease, holder, reason, ...(ended?.cause === undefined ? {} : { cause: ended.cause }) })
}

const words: Readonly<Record<LossReason, string>> = {
  expired: 'its time ran out before this process could renew it',
  taken: 'another term holds it',
  revoked: 'it was vacated before its time',
  unreachable: 'it could not be renewed in time',
  released: 'it was released',
}
