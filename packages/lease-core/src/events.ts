/**
 * Events, for logs and metrics. This library writes no log.
 *
 * Promises: a listener gets all events from its subscription to its end, in the order in which they happened. It is called after the
 * transition is complete. What it throws becomes a warning of the process, and affects nothing else. The same events go to
 * `node:diagnostics_channel` under `lease-core:<type>`. A `warning` that nobody listens to becomes a warning of the process, once for each
 * message. `JSON.stringify` of an event works: a `bigint` is shown as a string.
 */
import { channel, type Channel } from 'node:diagnostics_channel'
import { callListener, notValid, type LossReason } from './errors.ts'
import { queueMicrotask } from './turns.ts'
import { reported } from './shown.ts'

/** Where an event happened; each is undefined if the client does not say. */
export interface StoreName {
  /** The kind of the store, as OpenTelemetry names it in `db.system.name`: `postgresql`, `redis`, `etcd`, `memory`. */
  readonly system?: string | undefined
  /** The namespace of the client. */
  readonly namespace?: string | undefined
}

/** An event of a manager or a client; `type` says which. Times are in milliseconds. */
export type LeaseEvent = StoreName & LeaseEventBody

type LeaseEventBody =
  /** A claim opened a term, or extended the term that this holder had (`renewed`). */
  | {
      readonly type: 'claimed'
      readonly lease: string
      readonly holder: string
      readonly fencingToken: bigint
      readonly renewed: boolean
      /** From when the request was sent to its answer. */
      readonly tookMs?: number | undefined
      /** Of a `hold` with `wait`: from the call to the grant. */
      readonly waitedMs?: number | undefined
    }
  /** The store refused a claim: another holds the lease. Emitted once for a claim that waits, by its first refusal. */
  | {
      readonly type: 'denied'
      readonly lease: string
      readonly holder: string
      readonly currentHolder: string | undefined
      /** From when the request was sent to its answer. undefined: no request was sent for it. */
      readonly tookMs?: number | undefined
    }
  /**
   * A claim was refused, and waits at this position; 1 is next. Earlier waiters of this process count, and each other waiting process
   * counts once. Emitted again when a read or a hint shows another position. After a grant in this process the next waiter gets a new
   * ticket, so its position may be higher than before.
   */
  | { readonly type: 'waiting'; readonly lease: string; readonly holder: string; readonly position: number }
  /** The holder released the lease. */
  | {
      readonly type: 'released'
      readonly lease: string
      readonly holder: string
      /** From when the term was claimed by this process. undefined: it was not. */
      readonly heldMs?: number | undefined
    }
  /** This manager revoked the lease of this holder. */
  | { readonly type: 'revoked'; readonly lease: string; readonly holder: string }
  /** A Hold ended unasked. */
  | {
      readonly type: 'lost'
      readonly lease: string
      readonly holder: string
      readonly fencingToken: bigint
      readonly reason: LossReason
      /** From when the term was claimed by this process. */
      readonly heldMs?: number | undefined
      /** The manager was stopped: nothing failed. */
      readonly stopped?: boolean | undefined
    }
  /** A Hold renewed its lease. Only for those who ask for it: see `subscribe`. */
  | {
      readonly type: 'renewed'
      readonly lease: string
      readonly holder: string
      readonly fencingToken: bigint
      /** From when the request was sent to its answer. */
      readonly tookMs: number
      /** The share of the trust window, 0 to 1, that was left when the answer came. Below 0.2 the store or the event loop is slow. */
      readonly margin: number
      /** From when the renewal was due to when it was sent. undefined: a call of `renew` or `update`, or a late answer. */
      readonly delayMs?: number | undefined
    }
  /** Work in the background failed and is retried: a renewal, or the claim or read of a waiter. */
  | {
      readonly type: 'retrying'
      readonly lease: string
      readonly operation: 'renewal' | 'claim' | 'read'
      readonly cause: unknown
      /** Of a renewal: from when the request was sent to its failure. undefined: it was not sent. */
      readonly tookMs?: number | undefined
    }
  /** A client had the answer to one round trip, or has given it up. Only for those who ask for it: see `subscribe`. */
  | {
      readonly type: 'batch'
      readonly kind: 'apply' | 'read'
      /** How many operations, or leases, travelled in it. */
      readonly size: number
      /** How many waited for a round trip of their own when it was sent. */
      readonly waiting: number
      /** Names the queue of this process that it was taken from. */
      readonly queue: number
      readonly tookMs: number
      /** Why there was no answer; undefined: there was one. */
      readonly error?: unknown
    }
  /** Hints may have been lost, so everything that is held or awaited is read again. Only for those who ask for it: see `subscribe`. */
  | { readonly type: 'resync' }
  /** The set-up of the store weakens a promise of the library, or the store has been away for some seconds. */
  | {
      readonly type: 'warning'
      /** A stable word, such as `fsync-off`. */
      readonly warning: string
      readonly message: string
      /** Where to read more: a page of the documentation. */
      readonly page?: string | undefined
    }

/** Called with each event. */
export type LeaseEventListener = (event: LeaseEvent) => void

/** Options of `subscribe`. */
export interface SubscribeToEvents {
  /** The events to get. @default all except `renewed`, `batch` and `resync`, which may be many */
  readonly types?: readonly LeaseEvent['type'][] | undefined
}

/** A stream of events with any number of listeners. A client and a manager may share one; otherwise a manager passes on what its client warns of. */
export class LeaseEvents {
  readonly #subscriptions = new Set<Subscription>()
  /** What the subscriptions ask for. */
  readonly #types = new Set<LeaseEvent['type']>()
  /** Streams that get the warnings of this one. */
  readonly #others = new Set<LeaseEvents>()
  #queue: LeaseEvent[] = []
  /** How many events were ever queued, and how many of them delivered. */
  #queued = 0
  #delivered = 0

  /**
   * Calls the listener on every event of these types from now on. Returns a function that ends the subscription.
   *
   * @throws ErrNotValid the listener is not a function, or a type is none
   */
  subscribe(listener: LeaseEventListener, { types = USUAL }: SubscribeToEvents = {}): () => void {
    if (typeof listener !== 'function') {
      throw notValid([{ argument: 'listener', rule: 'must be a function', value: listener }])
    }
    const isKnown = Array.isArray(types) && types.every((type) => USUAL.includes(type) || MANY.includes(type))
    if (!isKnown) {
      const rule = `must be some of ${[...USUAL, ...MANY].map((type) => `'${type}'`).join(', ')}`
      throw notValid([{ argument: 'options.types', rule, value: types }])
    }
    const own: Subscription = { listener, types: new Set(types), after: this.#queued } // so that the same function may subscribe twice
    this.#subscriptions.add(own)
    this.#noteTypes()
    return () => {
      this.#subscriptions.delete(own)
      this.#noteTypes()
    }
  }

  #noteTypes(): void {
    this.#types.clear()
    for (const { types } of this.#subscriptions) for (const type of types) this.#types.add(type)
  }

  /** Passes on every later `warning` to another stream. Returns a function that ends it. */
  passWarningsTo(other: LeaseEvents): () => void {
    if (other !== this) this.#others.add(other)
    return () => void this.#others.delete(other)
  }

  /** Whether an event of this type has a listener: a hot path asks before it makes the event. */
  heard(type: LeaseEvent['type']): boolean {
    return (this.#types.size > 0 && this.#types.has(type)) || CHANNELS[type].hasSubscribers
  }

  /** Calls the listeners when the current transition is complete. */
  emit(event: LeaseEvent): void {
    if (event.type === 'warning' && this.#passOn(event)) return
    if (!this.heard(event.type)) return
    if (Object.isExtensible(event)) Object.defineProperty(event, 'toJSON', asJson)
    this.#queued++
    if (this.#queue.push(event) === 1) queueMicrotask(() => this.#deliver())
  }

  /** Returns whether nothing is left to do here: another stream has it, and this one has no listeners of its own. */
  #passOn(event: LeaseEvent & { readonly type: 'warning' }): boolean {
    let isPassedOn = false
    for (const other of this.#others) {
      if (!other.heard('warning')) continue
      other.emit(event)
      isPassedOn = true
    }
    if (!isPassedOn && !this.heard('warning')) warnProcess(event)
    return isPassedOn && !this.#types.has('warning')
  }

  #deliver(): void {
    const events = this.#queue
    this.#queue = []
    for (const event of events) {
      const before = this.#delivered++
      // A Set passes over those that were deleted meanwhile, and comes to those that were added.
      for (const { listener, types, after } of this.#subscriptions) {
        if (after <= before && types.has(event.type)) callListener(() => listener(event))
      }
      const diagnostics = CHANNELS[event.type]
      if (diagnostics.hasSubscribers) diagnostics.publish(event)
    }
  }
}

const USUAL: readonly LeaseEvent['type'][] = [
  'claimed',
  'denied',
  'waiting',
  'released',
  'revoked',
  'lost',
  'retrying',
  'warning',
]
const MANY: readonly LeaseEvent['type'][] = ['renewed', 'batch', 'resync']

/**
 * One channel for each type, kept for as long as the process lives. Node forgets a channel that nobody keeps, and when it does, versions 20 and
 * 22 forget the next one of that name as well: who has subscribed to it hears nothing any more.
 */
const CHANNELS = Object.fromEntries(
  [...USUAL, ...MANY].map((type) => [type, channel(`lease-core:${type}`)]),
) as Readonly<Record<LeaseEvent['type'], Channel>>

/** `JSON.stringify` throws on a `bigint`, and shows nothing of an error. */
const asJson = {
  configurable: true,
  value: function toJSON(this: LeaseEvent): object {
    return Object.fromEntries(Object.entries(this).map(([name, value]) => [name, reported(value)]))
  },
}

/** Messages that the process was warned of. */
const told = new Set<string>()
/** No more of them are remembered. */
const MOST_TOLD = 1_000

function warnProcess({ warning, message, page }: LeaseEvent & { readonly type: 'warning' }): void {
  if (told.has(message)) return
  if (told.size < MOST_TOLD) told.add(message)
  const code = `LEASE_${warning.toUpperCase().replace(/\W/g, '_')}`
  const where = 'Listen to it by manager.events.subscribe(…)'
  process.emitWarning(message, {
    type: 'LeaseWarning',
    code,
    detail: page === undefined ? where : `See ${page}. ${where}`,
  })
}

interface Subscription {
  readonly listener: LeaseEventListener
  readonly types: ReadonlySet<LeaseEvent['type']>
  /** So many events had been emitted before: they are not for it. */
  readonly after: number
}
