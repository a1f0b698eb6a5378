/**
 * One extension of a held term, from its turn in the lease's lane to what becomes of it:
 *
 *     waiting ──turn──▶ in the lane ──answer──▶ gone
 *        └── left behind ──┴──▶ gone: others may pass; an answer that comes after all still counts
 */
import type { Belief } from './belief.ts'
import type { Client, Renewal } from './client.ts'
import { ErrInvalid, type LossReason } from './errors.ts'
import type { KeyedMutex } from './keyed-mutex.ts'
import type { ClockReading } from './elapsed-time.ts'

/** What is extended. */
export interface HeldTerm {
  readonly lease: string
  readonly holder: string
  readonly durationMs: number
  readonly belief: Belief
  /** Released or lost. */
  readonly over: boolean
}

/** Who hears what became of it: exactly one of the first two, never from within `begin`. */
export interface ExtensionListener {
  /** `loss`: why the term is over; undefined: it was extended, and so was what may be believed of it. */
  extended(extension: Extension, loss: LossReason | undefined): void
  /** Neither is known. */
  failed(extension: Extension, error: unknown): void
}

/** What all extensions of one manager share. */
export interface ExtensionDesk {
  readonly client: Client
  readonly lanes: KeyedMutex
  readonly stopping: AbortSignal
  /** An instant before whatever is sent from now on. */
  readonly now: () => ClockReading
  /** Why this term is over by what the client knows, or undefined when it stands. */
  readonly lossOf: (term: HeldTerm) => LossReason | undefined
}

export class Extension implements Renewal {
  /** For whoever waits for it: the monotonic instant at which he leaves it behind. */
  leaveAtMs = 0
  readonly #desk: ExtensionDesk
  readonly #term: HeldTerm
  readonly #value: string | undefined
  readonly #listener: ExtensionListener
  readonly #atGone: (() => void) | undefined
  #place: 'waiting' | 'in the lane' | 'gone' = 'waiting'
  #sent: ClockReading | undefined
  #doubts = 0

  /**
   * @param value  undefined keeps the old one
   * @param atGone called once when it does not stand in anybody's way any more
   */
  constructor(
    desk: ExtensionDesk,
    term: HeldTerm,
    value: string | undefined,
    listener: ExtensionListener,
    atGone?: () => void,
  ) {
    this.#desk = desk
    this.#term = term
    this.#value = value
    this.#listener = listener
    this.#atGone = atGone
  }

  /** It has its turn like any other operation on the lease. @param now an instant before, where it is known */
  begin(now?: ClockReading): void {
    const turn = this.#desk.lanes.enter(this.#term.lease)
    if (turn === undefined) this.#send(now)
    else void turn.then(() => this.#send())
  }

  /** Stops standing in the way of the next operation on the lease. The answer may still come, and then counts. */
  leaveBehind(): void {
    if (this.#place === 'gone') return
    if (this.#place === 'in the lane') this.#desk.lanes.leave(this.#term.lease)
    this.#place = 'gone'
    this.#atGone?.()
  }

  #send(now?: ClockReading): void {
    const { client, lanes, stopping } = this.#desk
    const { lease, holder, durationMs, belief, over } = this.#term
    const passed = this.#place === 'gone'
    if (passed) lanes.leave(lease)
    else this.#place = 'in the lane'
    if (stopping.aborted) return queueMicrotask(() => this.#failed(stopping.reason))
    if (passed || over) return queueMicrotask(() => this.#failed(new Error('there is no use for it any more')))
    this.#sent = now ?? this.#desk.now()
    this.#doubts = belief.doubts
    const value = this.#value
    if (value === undefined && client.renewLease !== undefined) return client.renewLease(this)
    const known = client.leases().get(lease)
    // Tokens rise: this term is over.
    if (known !== undefined && known.fencingToken > belief.fencingToken) {
      return queueMicrotask(() => this.#settled('taken'))
    }
    client.extendLease(lease, { holder, duration: durationMs, value, announce: value !== undefined }).then(
      () => {
        // Whatever term of this holder it was: is it this one?
        const loss = this.#desk.lossOf(this.#term)
        if (loss === undefined) this.granted()
        else this.#settled(loss)
      },
      (error: unknown) => this.failed(error),
    )
  }

  get lease(): string {
    return this.#term.lease
  }

  get holder(): string {
    return this.#term.holder
  }

  get fencingToken(): bigint {
    return this.#term.belief.fencingToken
  }

  get durationMs(): number {
    return this.#term.durationMs
  }

  /** For the client. */
  granted(): void {
    const { belief, durationMs, over } = this.#term
    if (!over && this.#sent !== undefined) {
      belief.settle(this.#doubts)
      belief.extend(this.#sent, durationMs)
    }
    this.#settled(undefined)
  }

  /** For the client. */
  failed(error: unknown): void {
    const loss = error instanceof ErrInvalid ? this.#desk.lossOf(this.#term) : undefined
    if (loss === undefined) this.#failed(error) // or refused, yet the term stands: ask again
    else this.#settled(loss)
  }

  #settled(loss: LossReason | undefined): void {
    this.leaveBehind()
    this.#listener.extended(this, loss)
  }

  #failed(error: unknown): void {
    this.leaveBehind()
    this.#listener.failed(this, error)
  }
}
