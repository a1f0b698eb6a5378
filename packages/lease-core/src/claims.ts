/**
 * Claims of one manager: each opens a term, or goes on with the one that its holder has, whichever the latest state asks for.
 *
 * A claim has its turn on the lease. What the grant leads to is done within the turn: nothing comes between the answer and the code that relies on it.
 */
import type { DateTime } from 'luxon'
import { backoffMs } from './backoff.ts'
import type { Client, ShareRefusal, TermId } from './client.ts'
import { sleep, type Clock } from './clock.ts'
import type { ClockReading } from './elapsed-time.ts'
import { ErrClaimDenied, ErrInvalid, ErrUnknown, notValid } from './errors.ts'
import type { LeaseEvents, StoreName } from './events.ts'
import type { Info, TermAware } from './lease.ts'
import { countedOf, type ShareRequest } from './share.ts'
import type { Ticket } from './ticket.ts'
import type { ClaimTrace } from './tracing.ts'
import type { Term } from './term.ts'
import type { Terms } from './terms.ts'

/** Attempts of one claim, release or revocation that keeps meeting another state. */
export const MAX_ATTEMPTS = 10

/** Of a waiter. */
export interface WaiterDenial {
  /** A `denied` event was emitted for it. */
  isDenied?: boolean
  /** When it joined the queue, on the monotonic clock. */
  joinedMs?: number
}

export interface ClaimRequest {
  readonly holder: string
  readonly durationMs: number
  readonly value: string | undefined
  readonly announce: boolean | undefined
  readonly signal: AbortSignal | undefined
  /** Exactly where the lease is a share. */
  readonly share?: ShareRequest | undefined
  /** For a waiter. */
  readonly ticket?: Ticket | undefined
  readonly maxWaiters?: number | undefined
  /** For a waiter: its denial is reported once, however often it claims. */
  readonly waiter?: WaiterDenial | undefined
  /** Somebody listens to the call. */
  readonly trace?: ClaimTrace | undefined
  /** Throws where this process must not ask for the lease: called when it is the claim's turn, before anything is sent. */
  readonly admit?: ((lease: string) => void) | undefined
}

/** What a claim knew when it was sent, and which term it was granted. */
class Asked {
  /** The holder has the lease, and the claim extends it. */
  readonly own: boolean
  /** It waited and had no place in the queue yet. */
  readonly placeless: boolean
  /** An instant before. */
  readonly sent: ClockReading
  /** undefined: the client does not say. */
  granted: TermId | undefined
  /** Of a share: what the counted lease had against it. */
  refusal: ShareRefusal | undefined
  readonly onGranted = (term: TermId): void => void (this.granted = term)

  constructor(own: boolean, placeless: boolean, sent: ClockReading) {
    this.own = own
    this.placeless = placeless
    this.sent = sent
  }
}

interface DenialOptions {
  /** As many wait as may. @default false */
  readonly isFull?: boolean | undefined
  readonly waiter?: WaiterDenial | undefined
  /** An instant before the claim was sent that was refused. */
  readonly sent?: ClockReading | undefined
}

/** Called within the turn. @param sent an instant before the request was sent */
export type Granted<T> = (term: Term, sent: ClockReading) => T

export interface ClaimsHost {
  readonly client: Client
  readonly clock: Clock
  readonly events: LeaseEvents
  readonly store: StoreName | undefined
  readonly stopping: AbortSignal
  readonly terms: Terms
  leaveQueue(lease: string, ticket: Ticket): void
  /** A claim opened a term here. */
  opened(term: Term): void
}

export class Claims {
  readonly #host: ClaimsHost

  constructor(host: ClaimsHost) {
    this.#host = host
  }

  /** Claims or extends, and calls back within the turn. */
  async one<T>(lease: string, request: ClaimRequest, granted: Granted<T>): Promise<T> {
    const { terms } = this.#host
    const turn = terms.enter(lease)
    if (turn !== undefined) await turn
    try {
      for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
        // A state that changed under the first attempt is tried again at once; then others deserve their turn.
        if (attempt > 2) await this.#pause(attempt)
        const asked = this.#begin(lease, request)
        try {
          await this.#ask(lease, request, asked)
        } catch (error) {
          this.#refused(lease, request, asked, error)
          continue
        }
        // It was not the claim with the ticket that was granted. Of a share, others of this process may still wait with it.
        if (asked.own && request.ticket !== undefined && request.share === undefined) {
          this.#host.leaveQueue(lease, request.ticket)
        }
        return granted(this.#granted(lease, request, asked), asked.sent)
      }
      throw exhausted('claim', lease, request)
    } finally {
      terms.leave(lease)
    }
  }

  /**
   * The same for any of these leases: extends the one that this holder has, or claims one that is free. Two processes that do that for one
   * holder at the same moment may get two.
   */
  async any<T>(leases: readonly string[], request: ClaimRequest, granted: Granted<T>): Promise<T> {
    const { holder, signal } = request
    // Each holder begins at another lease, so that claims at the same time do not meet at the first.
    const from = placeOf(holder) % leases.length
    const order = [...leases.slice(from), ...leases.slice(0, from)]
    const mine = (lease: string): boolean => this.#holderOf(lease) === holder
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      if (attempt > 2) await this.#pause(attempt)
      this.#throwIfEnded(signal)
      let own = leases.find(mine)
      const { events, terms } = this.#host
      const sent = events.heard('denied') ? terms.now() : undefined
      if (own === undefined) {
        await this.#host.client.refresh(leases)
        this.#throwIfEnded(signal)
        own = leases.find(mine)
      }
      const lease = own ?? order.find((free) => this.#holderOf(free) === undefined)
      if (lease === undefined) throw this.deniedAny(leases, holder, { waiter: request.waiter, sent })
      try {
        return await this.one(lease, { ...request, ticket: undefined, maxWaiters: undefined }, granted)
      } catch (error) {
        if (!(error instanceof ErrClaimDenied) || error.currentHolder === holder) throw error
      }
    }
    throw exhausted('claim one of several, among them', leases[0] as string, { holder })
  }

  /** What is known when the request is about to be sent. */
  #begin(lease: string, { holder, signal, share, ticket, admit }: ClaimRequest): Asked {
    this.#throwIfEnded(signal)
    admit?.(lease)
    const known = this.#host.client.leases().get(lease)
    const own = known !== undefined && known.holder === holder && !this.mayHaveLapsed(known) && isAsAsked(known, share)
    return new Asked(own, ticket?.place === 0, this.#host.terms.now())
  }

  /** Throws unless the claim may be tried again. */
  #refused(lease: string, request: ClaimRequest, { placeless, refusal, sent }: Asked, error: unknown): void {
    if (!(error instanceof ErrInvalid)) throw error
    const { holder, ticket, share, waiter } = request
    const isFull = ticket?.isFull
    if (refusal !== undefined && share !== undefined) {
      this.#checkCapacity(lease, share, refusal)
      throw this.deniedShare(lease, holder, refusal.blocking, { isFull, waiter, sent })
    }
    const found = this.#host.client.leases().get(lease)
    if (found !== undefined && !hasLapsed(found, this.#host.clock)) {
      if (found.holder !== holder) throw this.denied(lease, holder, found, { isFull, waiter, sent })
      if (share !== undefined && !isAsAsked(found, share)) {
        const rule = `must be ${found.weight}, as of the share that "${holder}" has already`
        throw notValid([{ argument: 'share.weight', rule, value: share.weight }], { lease, holder })
      }
    } else if (placeless && ticket !== undefined && ticket.place > 0) {
      throw this.denied(lease, holder, undefined, { waiter, sent }) // it is vacant, and others were first
    }
  }

  #ask(lease: string, request: ClaimRequest, asking: Asked): Promise<void> {
    const { client } = this.#host
    const { own, onGranted } = asking
    const { holder, durationMs, value, announce, share, signal, ticket, maxWaiters } = request
    const asked = { holder, duration: durationMs, value, announce, share: own ? undefined : share }
    const onRefused = share === undefined ? undefined : (refusal: ShareRefusal) => void (asking.refusal = refusal)
    const options = { signal, ticket, maxWaiters, onGranted, onRefused }
    return own ? client.extendLease(lease, asked, options) : client.claimLease(lease, asked, options)
  }

  /** @throws ErrInvalid, ErrNotValid no wait makes this share one that is granted */
  #checkCapacity(lease: string, { weight, capacity }: ShareRequest, { capacity: defined }: ShareRefusal): void {
    const name = (countedOf(lease) as string).slice(0, -1)
    if (defined === undefined) {
      throw new ErrInvalid(`counted lease "${name}" is not defined`, { lease, reason: 'not defined' })
    }
    if (capacity !== undefined && capacity !== defined) {
      const reason = 'another capacity'
      throw new ErrInvalid(`counted lease "${name}" has a capacity of ${defined}, not ${capacity}`, { lease, reason })
    }
    if (weight > defined) {
      const rule = `must be at most ${defined}, the capacity of "${name}"`
      throw notValid([{ argument: 'share.weight', rule, value: weight }], { lease })
    }
  }

  #granted(lease: string, { holder, durationMs, waiter, trace }: ClaimRequest, { own, sent, granted }: Asked): Term {
    const { client, clock, terms, events, store } = this.#host
    const info: (Info & Partial<TermAware>) | undefined = client.leases().get(lease)
    const shown = info?.holder === holder ? { fencingToken: info.fencingToken, nonce: info.nonce } : undefined
    const { fencingToken, nonce } = granted ?? shown ?? UNKNOWN
    // A later answer may be here already, of the same holder or of another: then this term is over.
    const isOver = info === undefined ? granted === undefined : info.fencingToken > fencingToken
    const before = terms.get(lease)
    const term = terms.granted(lease, {
      holder,
      fencingToken,
      nonce,
      sent,
      durationMs,
      isAdopted: own,
    })
    if (isOver) terms.end(term, { reason: 'taken' })
    if (term !== before) this.#host.opened(term)
    if (trace !== undefined) trace.renewed = own
    if (events.heard('claimed')) {
      const nowMs = clock.monotonic()
      const waited = waiter?.joinedMs === undefined ? {} : { waitedMs: nowMs - waiter.joinedMs }
      const times = { tookMs: nowMs - sent.monotonicMs, ...waited }
      events.emit({ type: 'claimed', ...store, lease, holder, fencingToken: term.fencingToken, renewed: own, ...times })
    }
    return term
  }

  #pause(attempt: number): Promise<void> {
    return sleep(this.#host.clock, backoffMs(attempt - 2), this.#host.stopping)
  }

  #throwIfEnded(signal: AbortSignal | undefined): void {
    this.#host.stopping.throwIfAborted()
    if (signal?.aborted === true) throw signal.reason
  }

  // ── denials ───────────────────────────────────────────────────────────────────────────────────────────────────

  denied(
    lease: string,
    holder: string,
    known: Partial<Info> | undefined,
    { isFull = false, waiter, sent }: DenialOptions = {},
  ): ErrClaimDenied {
    const currentHolder = known?.holder
    this.#report(lease, holder, currentHolder, { waiter, sent })
    const by = currentHolder === undefined ? 'another' : `"${currentHolder}"`
    const why = isFull ? ', and as many wait for it as `maxWaiters` allows' : ''
    const expiry = known?.expiry
    const message = `lease "${lease}" is held by ${by}${this.#until(expiry, known?.pinned)}${why}`
    return new ErrClaimDenied(message, { lease, holder, currentHolder, expiry })
  }

  /** @param blocking the share that may lapse first, if one is known */
  deniedShare(
    lease: string,
    holder: string,
    blocking: Info | undefined,
    { isFull = false, waiter, sent }: DenialOptions = {},
  ): ErrClaimDenied {
    this.#report(lease, holder, undefined, { waiter, sent })
    const name = (countedOf(lease) ?? lease).slice(0, -1)
    const why = isFull ? ', and as many wait for it as `maxWaiters` allows' : ''
    const expiry = blocking?.expiry
    const until =
      blocking === undefined ? '' : `; the share of "${blocking.holder}" lasts${this.#until(expiry, blocking.pinned)}`
    const message = `others have the shares of counted lease "${name}", or are ahead in its queue${until}${why}`
    return new ErrClaimDenied(message, { lease, holder, expiry })
  }

  deniedAny(leases: readonly string[], holder: string, { waiter, sent }: DenialOptions = {}): ErrClaimDenied {
    const { client } = this.#host
    let soonest: readonly [lease: string, info: Info] | undefined
    for (const lease of leases) {
      const info = client.leases().get(lease)
      if (info !== undefined && (soonest === undefined || info.expiry < soonest[1].expiry)) soonest = [lease, info]
    }
    const [lease, info] = soonest ?? [leases[0] as string]
    this.#report(lease, holder, info?.holder, { waiter, sent })
    const expiry = info?.expiry
    const first = info === undefined ? '' : `; lease "${lease}" is held${this.#until(expiry, info.pinned)}`
    return new ErrClaimDenied(`all of ${leases.length} leases are held by others${first}`, { holder, expiry })
  }

  /** A waiter claims again and again: its first denial is news. */
  #report(lease: string, holder: string, currentHolder: string | undefined, { waiter, sent }: DenialOptions): void {
    if (waiter?.isDenied === true) return
    if (waiter !== undefined) waiter.isDenied = true
    const { events, clock, store } = this.#host
    if (!events.heard('denied')) return
    const took = sent === undefined ? {} : { tookMs: clock.monotonic() - sent.monotonicMs }
    events.emit({ type: 'denied', ...store, lease, holder, currentHolder, ...took })
  }

  /** For how long, in words. */
  #until(expiry: DateTime | undefined, pinned: boolean | undefined): string {
    if (pinned === true) return ' until it is unpinned or released'
    if (expiry === undefined) return ''
    const leftMs = Math.max(0, expiry.toMillis() - this.#host.clock.now())
    return ` for at most ${(leftMs / 1000).toFixed(1)} s, unless it is extended`
  }

  // ── what is known ─────────────────────────────────────────────────────────────────────────────────────────────

  /** By what the client knows; undefined: vacant, or perhaps lapsed. */
  #holderOf(lease: string): string | undefined {
    const info = this.#host.client.leases().get(lease)
    return info === undefined || this.mayHaveLapsed(info) ? undefined : info.holder
  }

  /** Whether this was seen too long ago to be relied on. */
  mayHaveLapsed(info: Info & Partial<TermAware>): boolean {
    if (hasLapsed(info, this.#host.clock)) return true
    return !info.pinned && (info.lapsesInMs?.() ?? 1) < 0
  }
}

/** Whether this share weighs what is asked for; a lease that is no share does. */
function isAsAsked({ weight }: Info, share: ShareRequest | undefined): boolean {
  return share === undefined || weight === undefined || weight === share.weight
}

/** Whether the lease had certainly lapsed when the store was asked. A client that does not say so goes by its `expiry`. */
export function hasLapsed(info: Info & Partial<TermAware>, clock: Clock): boolean {
  if (info.isLapsed !== undefined) return info.isLapsed()
  return !info.pinned && clock.now() > info.expiry.toMillis()
}

export function exhausted(
  operation: string,
  lease: string,
  { holder, cause }: { readonly holder?: string; readonly cause?: unknown } = {},
): ErrUnknown {
  const message = `could not ${operation} lease "${lease}": its state changed under each of ${MAX_ATTEMPTS} attempts`
  return new ErrUnknown(message, {
    lease,
    holder,
    reason: 'retries exhausted',
    ...(cause === undefined ? {} : { cause }),
  })
}

/** Of a term that was over before anybody saw it. */
const UNKNOWN: TermId = { fencingToken: -1n, nonce: undefined }

/** A number that is the same for the same name, and for others likely another. */
function placeOf(name: string): number {
  let place = 0
  for (let index = 0; index < name.length; index++) place = (place * 31 + name.charCodeAt(index)) >>> 0
  return place
}
