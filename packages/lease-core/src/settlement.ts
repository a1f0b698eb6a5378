/**
 * What becomes of each operation: it is sent until it is granted or refused, or until no more can be learned about it.
 *
 *     granted, refused ──▶ settled
 *     contended ──────────▶ certainly not done: again shortly, for as long as one round trip may take
 *     late ───────────────▶ certainly not done: again, as a request of its own, with a new nonce
 *     unknown ────────────▶ in doubt: again with the same nonce, a few times, then ErrUnknown
 *
 * Clean-up: a claim that is given up (refused or unknown after an attempt in doubt) may still open a term. Its nonce is released at
 * once, for an attempt that was executed, and once more when no attempt can be executed any more. A term that was adopted
 * meanwhile has another nonce and stands.
 */
import { backoffMs, contentionPauseMs, pauseAfterMs } from './backoff.ts'
import { sleep, type Clock } from './clock.ts'
import type { Coalescer } from './coalescer.ts'
import { ErrInvalid, ErrUnknown, reasonOf, SET_UP } from './errors.ts'
import type { KeyedMutex } from './keyed-mutex.ts'
import type { LeaseStates } from './lease-states.ts'
import { isSettled, MAX_ATTEMPTS, type RoundTrips } from './round-trips.ts'
import { LostCall, type InDoubt, type StoreLink } from './store-link.ts'
import {
  failsFor,
  type ClaimOp,
  type Counted,
  type Holding,
  type Op,
  type PinOp,
  type ReleaseOp,
  type Verdict,
} from './substrate.ts'

/** Granted or refused; `sent` is the operation that it was at last, and `doubt` says whether an earlier attempt may still be executed. */
export interface Settled {
  readonly verdict: Verdict
  readonly sent: Op
  readonly doubt: InDoubt | undefined
}

/** Why no more is learned about an operation. `doubt` is undefined where the store certainly never saw it. */
export class Unsettled extends Error {
  readonly error: unknown
  readonly sent: Op
  readonly doubt: InDoubt | undefined

  constructor(error: unknown, sent: Op, doubt: InDoubt | undefined) {
    const limit = Error.stackTraceLimit
    Error.stackTraceLimit = 0
    super('unsettled')
    Error.stackTraceLimit = limit
    this.error = error
    this.sent = sent
    this.doubt = doubt
  }
}

export interface SettlementListener {
  readonly finish: (verdict: Verdict, sent: Op, doubt: InDoubt | undefined) => void
  readonly fail: (error: unknown, sent: Op, doubt: InDoubt | undefined) => void
}

/** A claim by what it did: enough to undo it. */
export interface Claimed {
  readonly lease: string
  readonly holder: string
  readonly nonce: string
  readonly durationMs: number
}

export interface SettlementParts {
  readonly clock: Clock
  readonly link: StoreLink
  readonly states: LeaseStates
  readonly trips: RoundTrips
  readonly mutex: KeyedMutex
  /** How long an operation may meet others at the same row. */
  readonly timeoutMs: number
}

/** What an attempt came to. */
interface Outcome {
  readonly outcome: Verdict['outcome']
  readonly cause?: unknown
}

/** A request over its attempts. */
export interface Sending<V extends Outcome> {
  /** Of the attempts so far; kept also when it is given up. */
  doubt: InDoubt | undefined
  /** Sends it once; undefined: the signal had aborted. */
  attempt(): Promise<V | undefined>
  /** Makes it a request of its own: what was sent so far is given up. */
  afresh(): void
  /** Whether a further attempt is useless. */
  isOver?(): boolean
  /** @param why for people; `reason` is for programs, the same unless it is said */
  unsettled(why: string, cause?: unknown, reason?: string): ErrUnknown
}

/** Between two attempts to withdraw a claim. */
const LONGEST_PAUSE_MS = 5_000

const CONTENDED = 'another request was always at it'
const TOO_LATE = 'it always reached the store too late'

export class Settlement {
  readonly #parts: SettlementParts
  #nonces = 0

  constructor(parts: SettlementParts) {
    this.#parts = parts
  }

  newNonce(): string {
    return `${this.#parts.link.client}${(this.#nonces++).toString(36)}`
  }

  /** Where all goes well, as it nearly always does, this makes no promise: thousands of these are under way at once. */
  send(item: Op, signal: AbortSignal | undefined, { finish, fail }: SettlementListener): void {
    const settle = (verdict: Verdict | undefined): void => {
      if (isSettled(verdict)) finish(verdict, item, undefined)
      else {
        this.goOn(item, signal, verdict).then(
          (settled) => finish(settled.verdict, settled.sent, settled.doubt),
          ({ error, sent, doubt }: Unsettled) => fail(error, sent, doubt),
        )
      }
    }
    this.#parts.trips.operations.enqueue({ item, signal, settle })
  }

  /** @throws what `fail` is called with */
  sent(op: Op, signal: AbortSignal | undefined): Promise<Settled> {
    return new Promise((resolve, reject) => {
      this.send(op, signal, { finish: (verdict, sent, doubt) => resolve({ verdict, sent, doubt }), fail: reject })
    })
  }

  /**
   * Goes on from the first verdict.
   *
   * @param first undefined: it was never sent, for the signal aborted
   * @throws Unsettled
   */
  async goOn(
    op: Op,
    signal: AbortSignal | undefined,
    first: Verdict | undefined,
    through: Coalescer<Op, Verdict> = this.#parts.trips.operations,
  ): Promise<Settled> {
    let sent = op
    const sending: Sending<Verdict> = {
      doubt: undefined,
      attempt: () => through.submit(sent, signal),
      afresh: () => {
        if (sent.kind === 'claim') {
          this.cleanUp(sent, sending.doubt)
          sent = { ...sent, nonce: this.newNonce() } satisfies ClaimOp
          sending.doubt = undefined
        } else if (sent.kind === 'pin') sent = { ...sent, generation: this.newNonce() } satisfies PinOp
      },
      // A lease that has lapsed since needs no release.
      isOver: () => op.kind === 'release' && this.#parts.trips.leftMs(op) <= 0,
      unsettled: (why, cause, reason) => unsettled(op, { why, cause, reason, mayHaveRun: sending.doubt !== undefined }),
    }
    try {
      const verdict = await this.settle(sending, signal, { verdict: first })
      return { verdict, sent, doubt: sending.doubt }
    } catch (error) {
      throw new Unsettled(error, sent, sending.doubt)
    }
  }

  /**
   * Sends until it is granted or refused, or no more can be learned about it.
   *
   * @param first what the first attempt came to, if there was one
   * @throws the signal's reason, `ErrUnknown`
   */
  async settle<V extends Outcome>(
    sending: Sending<V>,
    signal: AbortSignal | undefined,
    first?: { readonly verdict: V | undefined },
  ): Promise<V & { readonly outcome: 'granted' | 'refused' }> {
    const { clock, link, timeoutMs } = this.#parts
    const startedMs = clock.monotonic()
    let failures = 0
    let lates = 0
    for (let tries = 1; ; tries++) {
      const verdict = tries === 1 && first !== undefined ? first.verdict : await sending.attempt()
      if (verdict === undefined) throw signal?.reason
      if (isSettled(verdict)) return verdict
      link.closing.throwIfAborted()

      let delayMs: number
      if (verdict.outcome === 'contended') {
        if (clock.monotonic() - startedMs > timeoutMs) throw sending.unsettled(CONTENDED)
        delayMs = contentionPauseMs(tries)
      } else if (verdict.outcome === 'late') {
        if (++lates >= MAX_ATTEMPTS) throw sending.unsettled(TOO_LATE)
        // An attempt in doubt may have been executed: the first answer to that is to look for its nonce once more.
        if (sending.doubt === undefined || lates > 1) sending.afresh()
        delayMs = 0
      } else {
        const lost = verdict.cause instanceof LostCall ? verdict.cause : undefined
        const cause = lost === undefined ? verdict.cause : lost.cause
        if (lost?.sent !== false && !failsFor(cause, 'isNotDone')) sending.doubt = this.#doubtOf(sending.doubt, lost)
        if (this.#parts.trips.isHopeless(cause)) throw sending.unsettled(reasonOf(cause), cause, SET_UP)
        if (++failures >= MAX_ATTEMPTS || sending.isOver?.()) throw sending.unsettled(reasonOf(cause), cause)
        delayMs = pauseAfterMs(failures)
      }
      if (delayMs > 0) await sleep(clock, delayMs, link.closing).catch(() => {})
      link.closing.throwIfAborted()
    }
  }

  // ── doubt ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The doubt of an operation, with that of one more attempt. */
  #doubtOf(before: InDoubt | undefined, lost: InDoubt | undefined): InDoubt {
    this.#parts.link.beginEpoch()
    const ends = [before?.notAfterMs, lost?.notAfterMs].filter((endMs) => endMs !== undefined)
    return { notAfterMs: ends.length === 0 ? undefined : Math.max(...ends) }
  }

  /** The claim is given up: undoes at once what an attempt in doubt has done, and in the end what it may still do. */
  cleanUp(claimed: Claimed, doubt: InDoubt | undefined): void {
    if (doubt !== undefined) this.#cleanUp(claimed, doubt).catch(() => {}) // closed
  }

  async #cleanUp(claimed: Claimed, doubt: InDoubt): Promise<void> {
    const { link, clock } = this.#parts
    let isDone = await this.withdrawInTurn(claimed)
    if (doubt.notAfterMs !== undefined) {
      await link.untilOver(doubt)
      isDone = await this.withdrawInTurn(claimed)
    }
    // A store without a clock must hear of the new epoch; any store, of the withdrawal. After its duration the term lapses by itself.
    const lapsesAtMs = clock.monotonic() + claimed.durationMs
    for (let failures = 1; !isDone && clock.monotonic() < lapsesAtMs; failures++) {
      await sleep(clock, 1 + backoffMs(failures, LONGEST_PAUSE_MS), link.closing)
      isDone = await this.withdrawInTurn(claimed)
    }
  }

  /** What the end of the client leaves open: ends the terms that its claims may open, and those that are being released. */
  withdrawals(): readonly ReleaseOp[] {
    const { link, trips } = this.#parts
    const ops: ReleaseOp[] = []
    for (const op of trips.operations.unanswered()) {
      if (op.kind === 'release') ops.push(op)
      if (op.kind === 'claim') ops.push(withdrawalOf(op))
    }
    if (ops.length > 0) link.beginEpoch()
    return ops
  }

  withdrawInTurn(claimed: Claimed): Promise<boolean> {
    this.#unsure(claimed)
    return this.#parts.mutex.inTurn(claimed.lease, () => this.withdraw(claimed))
  }

  /** A withdrawal may be under way: an extension must adopt the term. */
  #unsure({ lease, nonce }: Pick<Claimed, 'lease' | 'nonce'>): void {
    const known = this.#parts.states.get(lease)
    if (known?.nonce === nonce) known.isSure = false
  }

  /** Ends the term that this nonce opened, if it stands. Returns whether that is certain. */
  async withdraw(claimed: Claimed): Promise<boolean> {
    this.#unsure(claimed)
    return this.sent(withdrawalOf(claimed), undefined).then(
      () => true,
      () => false,
    )
  }
}

/** Ends the term that this nonce opened, and no other. */
function withdrawalOf({ lease, holder, nonce }: Claimed): ReleaseOp {
  return { kind: 'release', lease, holder, fencingToken: undefined, nonce }
}

/** A release that was refused for a later term, after an attempt whose answer was lost: its own term is over, and by that attempt for all that is known. */
export function isDone(op: Op, { holding }: Verdict, doubt: InDoubt | undefined): boolean {
  if (op.kind !== 'release' || op.fencingToken === undefined || doubt === undefined) return false
  return holding !== undefined && holding.fencingToken > op.fencingToken
}

export function invalid(
  op: { readonly kind: string; readonly lease: string; readonly holder?: string | undefined },
  holding: Holding | undefined,
  counted?: Counted,
): ErrInvalid {
  const { kind, lease, holder } = op
  const held = holding === undefined ? 'vacant' : `held by "${holding.holder}"`
  const reason = counted === undefined ? held : 'not granted by its counted lease'
  return new ErrInvalid(`cannot ${kind} lease "${lease}": it is ${reason}`, { lease, holder, reason })
}

function unsettled(
  op: Op,
  {
    why,
    reason = why,
    mayHaveRun,
    cause,
  }: { why: string; reason?: string | undefined; mayHaveRun: boolean; cause?: unknown },
): ErrUnknown {
  const holder = 'holder' in op ? op.holder : undefined
  const message = `could not ${op.kind} lease "${op.lease}"${mayHaveRun ? ', it may have happened' : ''}: ${why}`
  return new ErrUnknown(message, { lease: op.lease, holder, reason, cause })
}
