/** What a waiter, a watcher or a holder is notified of follows from two sights, one after the other. */
import { ABSENT, type State } from './layout.ts'
import { VACANT, type Sight } from './polled-hints.ts'
import { clientOf, waitersIn } from './queue.ts'
import { fitsFirst, type Room } from './shares.ts'

/** Of a lease. @param state undefined: it was never claimed */
export function sightOf(state: State = ABSENT, nowMs: number = 0): Sight {
  const { fencingToken, term, version = '', served, nonces } = state
  const [nonce] = nonces
  return {
    ...VACANT,
    fencingToken,
    content: [String(fencingToken), term?.holder ?? '', term?.value ?? ''].join('\n'),
    isHeld: term !== undefined,
    isOpen: term === undefined,
    version,
    queue: waitersIn(state, { nowMs }),
    served,
    maker: nonce === undefined ? undefined : clientOf({ nonce }),
  }
}

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
    isOpen: fitsFirst(room, { nowMs }),
    version: [version, ...parts].join('\n'),
    queue: waitersIn(gate, { nowMs }),
    capacity: definition?.capacity ?? 0,
    served,
  }
}
