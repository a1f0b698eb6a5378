/** Who waits reads again: how often, until when, and what it then hears. */
import { expect } from 'chai'
import { TestClock } from '#src/testing/index.ts'
import type { LeaseChange } from '#src/client.ts'
import { HINT_DELAY_MS, PolledHints } from '#src/records/polled-hints.ts'
import { ABSENT, type LeaseRecord, type QueueTicket } from '#src/records/record.ts'
import { sightOf as sightAt, sightOfCounted, type Sight } from '#src/records/sight.ts'
import { INTEREST_MS } from '#src/ticket.ts'

const CLIENT = 'client-00001'
const OTHER = 'client-00002'

const sightOf = (record: LeaseRecord): Sight => sightAt(record, 0)

/** A lease in this term, with so many in its queue, of whom the places are 1, 2, … */
function lease(
  token: bigint,
  holder?: string,
  { queue = 0, pins = 0, served, maker = OTHER }: Partial<Described> = {},
): Sight {
  const term: LeaseRecord['term'] =
    holder === undefined
      ? undefined
      : { holder, version: 'e', durationMs: 9_000, untilMs: 0, nonce: `${maker}n`, value: undefined, weight: undefined }
  const tickets = Array.from({ length: queue }, (_, index) => ticket(index + 1))
  const version = `${token} ${holder} ${queue}`
  const pinned = new Map(Array.from({ length: pins }, (_, index) => [`operator-${index}`, 'generation']))
  return sightOf({
    ...ABSENT,
    version,
    fencingToken: token,
    term,
    nonces: [`${maker}n`],
    queue: tickets,
    pins: pinned,
    served,
  })
}

interface Described {
  readonly queue: number
  readonly pins: number
  readonly served: LeaseRecord['served']
  readonly maker: string
}

function ticket(place: number): QueueTicket {
  return { place, weight: 1, untilMs: 1, nonce: `${OTHER}${place}` }
}

const HELD = lease(1n, 'a')
const VACATED = lease(1n)

describe('hints that are read', () => {
  let clock: TestClock
  let store: Map<string, Sight>
  /** The leases of each look; undefined: all. */
  let looks: (readonly string[] | undefined)[]
  let heard: LeaseChange[]
  let failures: number
  let isDown: boolean
  beforeEach(() => {
    clock = new TestClock()
    store = new Map()
    looks = []
    heard = []
    failures = 0
    isDown = false
  })

  const hintsOf = ({ all = false } = {}): PolledHints =>
    new PolledHints({
      clock,
      client: all ? undefined : CLIENT,
      look: async (leases) => {
        looks.push(leases)
        if (isDown) throw new Error('down')
        return new Map([...store].filter(([lease]) => leases?.includes(lease) ?? true))
      },
      failed: (_, attempts) => void (failures = attempts),
    })

  const listener = (change: LeaseChange): void => void heard.push(change)
  const kinds = (): readonly string[] => heard.map((change) => change.kind)

  const pass = async (seconds: number): Promise<void> => {
    for (let step = 0; step < seconds * 10; step++) await clock.advance(100)
  }

  /** One of the first in the queue of `l`, which is held, or of those behind. */
  const waiting = (place: number, queue: number): PolledHints => {
    const hints = hintsOf()
    hints.add(listener)
    store.set('l', lease(1n, 'a', { queue }))
    hints.waits('l', { place, weight: 1 }, lease(1n, 'a', { queue }))
    return hints
  }

  it('read for one of the first two in the queue at most 65 times in each minute, however many wait in the process', async () => {
    for (const place of [1, 2]) {
      looks = []
      const hints = waiting(place, 3)
      await pass(60)
      expect(looks.length).to.be.within(55, 65)
      hints.waits('l', { place: 3, weight: 1 }, lease(1n, 'a', { queue: 3 })) // another waiter costs no more
      looks = []
      await pass(60)
      expect(looks.length).to.be.within(55, 65)
      hints.delete(listener)
    }
  })

  it('read for those behind, and for those who watch, at most 20 times in the first minute, and 12 times in each later one', async () => {
    for (const begin of [() => waiting(3, 3), () => watching('l')]) {
      looks = []
      const hints = begin()
      await pass(60)
      expect(looks.length).to.be.within(12, 20)
      looks = []
      await pass(60)
      expect(looks.length).to.be.within(11, 13)
      hints.delete(listener)
    }
  })

  it('read for a holder 4 times in a minute, and never while it renews its term in between', async () => {
    const hints = hintsOf()
    hints.add(listener)
    const own = lease(1n, 'a', { maker: CLIENT })
    store.set('l', own)
    hints.holds('l', own)
    await pass(60)
    expect(looks.length).to.be.within(3, 4)
    looks = []
    for (let renewal = 0; renewal < 10; renewal++) {
      hints.holds('l', own)
      await pass(10)
    }
    expect(looks).to.deep.equal([])
    hints.delete(listener)
  })

  it('report the end of a term to its holder, unless it ends the term itself or another has adopted it', async () => {
    const own = lease(1n, 'a', { maker: CLIENT })
    const ends: readonly (readonly [Sight, (hints: PolledHints) => void, number])[] = [
      [lease(1n, undefined, { maker: CLIENT }), () => {}, 1],
      [lease(2n, 'b'), () => {}, 1],
      [lease(1n, undefined, { maker: CLIENT }), (hints) => hints.ends('l'), 0],
      [lease(1n), () => {}, 0],
    ]
    for (const [end, before, times] of ends) {
      heard = []
      const hints = hintsOf()
      hints.add(listener)
      hints.holds('l', own)
      before(hints)
      store.set('l', end)
      await pass(40)
      const expected = Array.from({ length: times }, () => ({ kind: 'vacated', lease: 'l' }))
      expect(heard.filter(({ kind }) => kind !== 'resync')).to.deep.equal(expected)
      hints.delete(listener)
    }
  })

  it('notify the first in the queue of a vacancy within a second, and those behind the second not at all', async () => {
    for (const place of [1, 3]) {
      const hints = waiting(place, 3)
      await pass(30)
      heard = []
      store.set('l', lease(1n, undefined, { queue: 3 }))
      await pass(1.1)
      const first = { kind: 'vacated', lease: 'l', to: { place: 1, ahead: 0 } }
      expect(heard).to.deep.equal(place === 1 ? [first] : [])
      await pass(10)
      expect(heard).to.deep.equal(place === 1 ? [first] : [])
      hints.delete(listener)
    }
  })

  it('notify the second when the first has had its turn and did not come: within three seconds', async () => {
    const hints = waiting(2, 3)
    await pass(30)
    heard = []
    store.set('l', lease(1n, undefined, { queue: 3 }))
    await pass(1.4)
    expect(heard).to.deep.equal([])
    await pass(1.6)
    expect(heard).to.deep.equal([{ kind: 'vacated', lease: 'l', to: { place: 2, ahead: 1 } }])
    hints.delete(listener)
  })

  it('let the second wait anew when it has another one ahead', async () => {
    const hints = waiting(2, 3)
    store.set('l', lease(1n, undefined, { queue: 3 }))
    await pass(1.2)
    store.set('l', sightOf({ ...ABSENT, version: 'w', fencingToken: 1n, queue: [ticket(2), ticket(3)] }))
    heard = []
    await pass(1.1)
    expect(heard).to.deep.equal([{ kind: 'vacated', lease: 'l', to: { place: 2, ahead: 0 } }])
    hints.delete(listener)
  })

  it('notify the first two of what is left in time, when those ahead were passed over', async () => {
    const [third, fourth] = [waiting(3, 4), waiting(4, 4)]
    await pass(30)
    heard = []
    store.set('l', sightOf({ ...ABSENT, version: 'w', fencingToken: 1n, queue: [ticket(3), ticket(4)] }))
    await pass(HINT_DELAY_MS / 1_000)
    const told = [3, 4].map((place, ahead) => ({ kind: 'vacated', lease: 'l', to: { place, ahead } }))
    expect(heard).to.deep.equal(told)
    for (const hints of [third, fourth]) hints.delete(listener)
  })

  it('notify the next in the queue of a grant, and for how long the lease is taken', async () => {
    const hints = waiting(2, 2)
    await pass(5)
    heard = []
    const served = { place: 1, durationMs: 9_000 }
    store.set('l', sightOf({ ...ABSENT, ...heldBy('b'), fencingToken: 2n, queue: [ticket(2)], served }))
    await pass(1.1)
    expect(heard).to.deep.equal([{ kind: 'taken', lease: 'l', ...served, to: { place: 2, ahead: 0 } }])
    hints.delete(listener)
  })

  it('notify the first again when the record has changed in the meantime', async () => {
    const hints = waiting(1, 2)
    store.set('l', lease(1n, undefined, { queue: 2 }))
    await pass(2)
    heard = []
    store.set('l', sightOf({ ...ABSENT, version: 'again', fencingToken: 1n, queue: [ticket(1), ticket(2)] }))
    await pass(2)
    expect(heard).to.deep.equal([{ kind: 'vacated', lease: 'l', to: { place: 1, ahead: 0 } }])
    hints.delete(listener)
  })

  it('notify a waiter once that was taken out of the queue, so that it claims, and is back', async () => {
    const hints = waiting(1, 2)
    await pass(5)
    heard = []
    const passedOver = (version: string): Sight => sightOf({ ...ABSENT, ...heldBy(version), queue: [ticket(2)] })
    store.set('l', passedOver('b'))
    await pass(1.1)
    const change = { kind: 'vacated', lease: 'l', to: { place: 1, ahead: 0 } }
    expect(heard).to.deep.equal([change])
    store.set('l', passedOver('c'))
    await pass(10)
    expect(heard).to.deep.equal([change])
    store.set('l', lease(1n, 'a', { queue: 2 })) // it is back
    await pass(10)
    store.set('l', passedOver('d'))
    await pass(5.1)
    expect(heard).to.deep.equal([change, change])
    hints.delete(listener)
  })

  it('notify one of its waiters only as long as that waits', async () => {
    const hints = waiting(1, 2)
    hints.left('l', 1)
    store.set('l', lease(1n, undefined, { queue: 2 }))
    await pass(20)
    expect(kinds()).to.deep.equal(['resync'])
    hints.delete(listener)
  })

  const watching = (...leases: readonly string[]): PolledHints => {
    const hints = hintsOf()
    hints.add(listener)
    for (const lease of leases) {
      store.set(lease, HELD)
      hints.watches(lease, HELD)
    }
    return hints
  }

  it('read what is due together in one request', async () => {
    const hints = watching('k', 'l', 'm')
    await clock.advance(260)
    expect(looks).to.deep.equal([['k', 'l', 'm']])
    hints.delete(listener)
  })

  it('report a release, also one before the first look, and then look often again', async () => {
    const hints = watching('l')
    store.set('l', VACATED)
    await clock.advance(260)
    expect(heard.at(-1)).to.deep.equal({ kind: 'vacated', lease: 'l' })
    store.set('l', lease(2n, 'b'))
    await pass(60)
    expect(heard.at(-1)).to.deep.equal({ kind: 'changed', lease: 'l' })
    const { length } = looks
    store.set('l', lease(3n)) // a term that nobody saw came and went
    await pass(6)
    expect(heard.at(-1)).to.deep.equal({ kind: 'vacated', lease: 'l' })
    expect(looks.length - length).to.be.greaterThan(3)
    hints.delete(listener)
  })

  it('report a term that came and went, one that another one replaced, and a new value', async () => {
    const valued = (value: string): Sight => {
      const term = { holder: 'a', version: 'e', durationMs: 9_000, untilMs: 0, nonce: 'n', value, weight: undefined }
      return sightOf({ ...ABSENT, version: value, fencingToken: 4n, term })
    }
    const hints = watching('l')
    const states = [VACATED, lease(2n), lease(3n, 'a'), lease(4n, 'a'), valued('one'), valued('two'), valued('two')]
    const news: (string | undefined)[] = []
    for (const state of states) {
      heard = []
      store.set('l', state)
      await pass(6)
      news.push(kinds().at(-1))
    }
    expect(news).to.deep.equal(['vacated', 'vacated', 'changed', 'changed', 'changed', 'changed', undefined])
    hints.delete(listener)
  })

  it('notify the first in the queue, and all watchers, of the end of the last pin: the lease may have lapsed before', async () => {
    const inQueue = (place: number) => (): PolledHints => waiting(place, 3)
    for (const [begin, told] of [
      [inQueue(1), [{ kind: 'vacated', lease: 'l', to: { place: 1, ahead: 0 } }]],
      [inQueue(2), []],
      [() => watching('l'), [{ kind: 'vacated', lease: 'l' }]],
    ] as const) {
      const hints = begin()
      await pass(1)
      heard = [] // without the new beginning
      store.set('l', lease(1n, 'a', { queue: 3, pins: 2 }))
      await pass(6)
      store.set('l', lease(1n, 'a', { queue: 3, pins: 1 }))
      await pass(6)
      expect(heard).to.deep.equal([])
      store.set('l', lease(1n, 'a', { queue: 3 }))
      await pass(6)
      expect(heard).to.deep.equal(told)
      hints.delete(listener)
    }
  })

  it('notify a waiter for shares of the end of the last pin of a share', async () => {
    const counted = (...entities: readonly string[]): Sight => {
      const definition = { capacity: 1, generation: 'g', byUse: false }
      const pins = new Map(entities.map((entity) => [entity, 'generation']))
      const share = { ...ABSENT, ...heldBy('a'), fencingToken: 1n, pins }
      const gate = { ...ABSENT, version: 'g', definition, queue: [ticket(1)] }
      return sightOfCounted({ gate, shares: new Map([['l#a', share]]) }, 0)
    }
    const hints = hintsOf()
    hints.add(listener)
    hints.waits('l#', { place: 1, weight: 1 }, counted('one', 'two'))
    store.set('l#', counted('one'))
    await pass(2)
    heard = []
    store.set('l#', counted())
    await pass(2)
    expect(heard).to.deep.equal([{ kind: 'vacated', lease: 'l#', to: { place: 1, ahead: 0 } }])
    hints.delete(listener)
  })

  it('read within a second for a waiter that has become one of the first two', async () => {
    const hints = waiting(3, 3)
    await pass(60)
    looks = []
    while (looks.length === 0) await clock.advance(100) // the next one is five seconds away
    hints.waits('l', { place: 3, weight: 1 }, sightOf({ ...ABSENT, queue: [ticket(3)] }))
    looks = []
    await pass(1.1)
    expect(looks.length).to.be.at.least(1)
    hints.delete(listener)
  })

  it('notify a waiter for shares when there is room for the first, and when it waits in vain', async () => {
    const share = (name: string): readonly [string, LeaseRecord] => [
      name,
      { ...ABSENT, ...heldBy(name), fencingToken: 1n },
    ]
    const counted = (capacity: number, weight: number, ...names: readonly string[]): Sight => {
      const definition = { capacity, generation: 'g', byUse: false }
      const queue = [{ ...ticket(1), weight }]
      const gate = { ...ABSENT, version: `${capacity} ${weight}`, definition, queue: weight > capacity ? [] : queue }
      return sightOfCounted({ gate, shares: new Map(names.map(share)) }, 0)
    }
    const to = { place: 1, ahead: 0 }
    for (const [next, expected] of [
      [counted(3, 2, 'l#a', 'l#b'), []],
      [counted(3, 2, 'l#b'), [{ kind: 'vacated', lease: 'l#', to }]],
      [counted(1, 2, 'l#a', 'l#b', 'l#c'), [{ kind: 'vacated', lease: 'l#', to }]],
    ] as const) {
      heard = []
      const hints = hintsOf()
      hints.add(listener)
      hints.waits('l#', { place: 1, weight: 2 }, counted(3, 2, 'l#a', 'l#b', 'l#c'))
      store.set('l#', next)
      await pass(2)
      expect(heard.filter(({ kind }) => kind !== 'resync')).to.deep.equal(expected)
      hints.delete(listener)
    }
  })

  it('of a whole namespace compare with the first look, which is reported as a new beginning', async () => {
    const hints = hintsOf({ all: true })
    hints.add(listener)
    store.set('l', HELD)
    await clock.advance(260)
    expect([looks, kinds()]).to.deep.equal([[undefined], ['resync']])
    store.delete('l')
    const served = { place: 7, durationMs: 9_000 }
    store.set('m', lease(2n, 'b', { served }))
    await clock.advance(400)
    expect(heard.slice(1)).to.have.deep.members([
      { kind: 'vacated', lease: 'l' },
      { kind: 'changed', lease: 'm' },
      { kind: 'taken', lease: 'm', ...served },
    ])
    hints.delete(listener)
  })

  it('end with the last listener, with the watch, and with what nobody renews: no timer is left', async () => {
    const hints = watching('watched')
    hints.waits('waited', { place: 1, weight: 1 }, HELD)
    expect(clock.pending).to.equal(1)
    hints.left('watched', undefined)
    await clock.advance(300)
    expect(looks).to.deep.equal([['waited']])
    for (let step = 0; step < 20; step++) await clock.advance(INTEREST_MS / 10)
    expect(clock.pending).to.equal(0)
    hints.waits('waited', { place: 1, weight: 1 }, HELD)
    expect(clock.pending).to.equal(1)
    hints.delete(listener)
    expect(clock.pending).to.equal(0)
  })

  it('go on when the store is back, and miss nothing of what was meanwhile', async () => {
    const hints = watching('l')
    isDown = true
    await pass(20)
    expect(failures).to.be.greaterThan(5)
    isDown = false
    store.set('l', VACATED)
    await pass(6)
    expect(heard.at(-1)).to.deep.equal({ kind: 'vacated', lease: 'l' })
    hints.delete(listener)
  })
})

function heldBy(holder: string): Pick<LeaseRecord, 'term' | 'version'> {
  const more = { durationMs: 9_000, untilMs: 0, nonce: `${OTHER}n`, value: undefined, weight: 1 }
  return { version: holder, term: { holder, version: 'e', ...more } }
}
