/** What readers compare of a lease: what a waiter, a watcher or a holder is notified of follows from two sights, one after the other. */
import { clientOf } from '../substrate.ts'
import { fitsFirst, type Room } from './counted.ts'
import { waitersIn } from './queue.ts'
import { ABSENT, type LeaseRecord, type QueueTicket } from './record.ts'

/** What is compared of a lease, or of a counted lease with its shares. */
export interface Sight {
  /** Of the latest term; of a counted lease of the latest share. */
  readonly fencingToken: bigint
  /** Differs after each term, and after each change of a value. */
  readonly content: string
  readonly isHeld: boolean
  /** How many of the terms that stand are kept from lapsing by a pin. */
  readonly pinned: number
  /** Whether the first in the queue can have it. */
  readonly isOpen: boolean
  /** If it is open: with another one, the first in the queue are notified again. */
  readonly version: string
  readonly queue: readonly Pick<QueueTicket, 'place' | 'weight'>[]
  /** Waiters that want more wait in vain. */
  readonly capacity: number
  /** The latest grant, if a waiter got it. */
  readonly served: LeaseRecord['served']
  /** The client that opened the latest term, or adopted it. */
  readonly maker: string | undefined
}

/** Of a lease. */
export function sightOf(record: LeaseRecord, nowMs: number): Sight {
  const { fencingToken, term, version = '', served, nonces, pins } = record
  const [nonce] = nonces
  return {
    fencingToken,
    content: [String(fencingToken), term?.holder ?? '', term?.value ?? ''].join('\n'),
    isHeld: term !== undefined,
    pinned: term !== undefined && pins.size > 0 ? 1 : 0,
    isOpen: term === undefined,
    version,
    queue: waitersIn(record, { nowMs }),
    capacity: Number.POSITIVE_INFINITY,
    served,
    maker: nonce === undefined ? undefined : clientOf(nonce),
  }
}

/** Of what was never claimed. */
export const VACANT: Sight = sightOf(ABSENT, 0)

/** Of a counted lease. News are the shares and the definition. */
export function sightOfCounted(room: Room, nowMs: number): Sight {
  const { gate, shares } = room
  const { fencingToken, served, definition, version = '' } = gate
  const standing = [...shares].filter(([, { term }]) => term !== undefined)
  const parts = standing.map(([name, share]) => `${name} ${share.fencingToken}`).toSorted()
  return {
    ...VACANT,
    fencingToken,
    content: [definition?.generation ?? '', ...parts].join('\n'),
    pinned: standing.filter(([, { pins }]) => pins.size > 0).length,
    isOpen: fitsFirst(room, { nowMs }),
    version: [version, ...parts].join('\n'),
    queue: waitersIn(gate, { nowMs }),
    capacity: definition?.capacity ?? 0,
    served,
  }
}
