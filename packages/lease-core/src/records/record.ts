/**
 * A store of records: it reads them, and writes them on conditions. It has no clock, and sends nothing. `RecordSubstrate` makes leases of it.
 *
 * There is one record for each lease. That of a counted lease (`printers#`) decides each grant of a share, and holds the queue; each share
 * has a record of its own. A record has a version, new with every write and never used again. What decides a condition is the version alone:
 * so a request that arrives late, or twice, changes nothing.
 */
import type { Call, Holding, Pins, StoreFailure } from '../substrate.ts'

/** What an adapter implements. Every method ends with its call, and may reject with a `StoreFailure`; that of a read says `isNotDone`. */
export interface RecordStore {
  /** Reads those of these records that exist, each as it is at some instant during the call. */
  read(leases: readonly string[], call: Abortable): Promise<FoundRecords>
  /** Reads all records whose names begin so, each at some instant during the call. */
  readAll(prefix: string, call: Abortable): Promise<FoundRecords>
  /** Writes all of these records or none, at most two. Parts of a record that this library does not know stay as they are. */
  write(writes: readonly RecordWrite[], call: Abortable): Promise<readonly Written[]>
}

/** When a request ends, answered or not. */
export type Abortable = Pick<Call, 'signal' | 'onAbort'>

/** By the name. A failure stands for a record that somebody else wrote. */
export type FoundRecords = ReadonlyMap<string, LeaseRecord | StoreFailure>

/** One write, on condition that the record has the version `was`. */
export interface RecordWrite {
  readonly lease: string
  /** undefined: there must be no record. */
  readonly was: string | undefined
  readonly after: LeaseRecord | 'deleted'
}

/** Whether the condition of a write was met. If it was not, `found` is the record that was there; undefined: there is none, or it is not known. */
export type Written = { readonly isMet: true } | { readonly isMet: false; readonly found: LeaseRecord | undefined }

/** What a record says about a lease. */
export interface LeaseRecord {
  /** undefined: there is no record. */
  readonly version: string | undefined
  /** Of the latest term, of a counted lease that of the latest share; 0: there was none. */
  readonly fencingToken: bigint
  readonly term: Term | undefined
  /** The nonces of the latest term, also when it is over: the present one, then that of the claim that opened it. */
  readonly nonces: readonly string[]
  readonly pins: Pins
  /** Of a share: its record stays when it is vacant. */
  readonly keeps: boolean
  readonly definition: Definition | undefined
  /** The definition that was removed last, if the counted lease is not defined: its generation, and that of its removal. */
  readonly before: readonly string[]
  /** Of waiters, in the order of the places; also tickets that have lapsed. */
  readonly queue: readonly QueueTicket[]
  /** The place of the latest ticket. */
  readonly places: number
  /** The grant of the latest term, if a waiter with a ticket has it. */
  readonly served: { readonly place: number; readonly durationMs: number } | undefined
  /** When the store may delete the record, in seconds since 1970: only of what is vacant, and of definitions that claims made. */
  readonly expires: number | undefined
}

/** A term that stands. */
export interface Term {
  readonly holder: string
  /** New with every claim and extension. */
  readonly version: string
  /** The longest duration that was granted in this term. */
  readonly durationMs: number
  /** Until when its holder may rely on it, by the holder's own wall clock: only `maxSkewMs` asks for it. */
  readonly untilMs: number
  readonly nonce: string
  readonly value: string | undefined
  readonly weight: number | undefined
}

/** The ticket of a waiter. */
export interface QueueTicket {
  readonly place: number
  /** Of the claim that got it. It begins with the name of its client. */
  readonly nonce: string
  /** Of the share that it asked for last; of a lease 1. */
  readonly weight: number
  /** By the wall clock. */
  readonly untilMs: number
}

/** The capacity of a counted lease. */
export interface Definition {
  readonly capacity: number
  readonly generation: string
  /** A claim made it. */
  readonly byUse: boolean
}

/** Of a lease that the store knows nothing about. */
export const ABSENT: LeaseRecord = {
  version: undefined,
  fencingToken: 0n,
  term: undefined,
  nonces: [],
  pins: new Map(),
  keeps: false,
  definition: undefined,
  before: [],
  queue: [],
  places: 0,
  served: undefined,
  expires: undefined,
}

export function holdingOf({ term, fencingToken, pins }: LeaseRecord): Holding | undefined {
  if (term === undefined) return undefined
  const { holder, nonce, durationMs, value, version, weight } = term
  return { holder, fencingToken, nonce, remainingMs: durationMs, value, pinned: pins.size > 0, version, weight }
}
