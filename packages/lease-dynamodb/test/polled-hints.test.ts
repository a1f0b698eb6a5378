/** Who waits reads again: how often, until when, and what it then hears. */
import { expect } from 'chai'
import type { LeaseChange } from 'lease-core'
import { INTEREST_MS } from 'lease-core/adapter'
import { TestClock } from 'lease-core/testing'
import { countedSightOf, PolledHints, sightOf, type Sight } from '#src/polled-hints.ts'

const HELD = sightOf({ fencingToken: 1n, holder: 'a' })
const VACATED = sightOf({ fencingToken: 1n })

describe('the hints of DynamoDB', () => {
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
    new PolledHints(
      {
        clock,
        look: async (leases) => {
          looks.push(leases)
          if (isDown) throw new Error('down')
          return new Map([...store].filter(([lease]) => leases?.includes(lease) ?? true))
        },
        failed: (_, attempts) => void (failures = attempts),
      },
      { all },
    )

  const listener = (change: LeaseChange): void => void heard.push(change)
  const kinds = (): readonly string[] => heard.map((change) => change.kind)

  it('read one lease at most 20 times in the first minute, and 12 times in each later one', async () => {
    const hints = hintsOf()
    hints.add(listener)
    store.set('l', HELD)
    hints.want('l', HELD, 'waits')
    for (let second = 0; second < 60; second++) await clock.advance(1_000)
    expect(looks.length).to.be.within(12, 20)
    hints.want('l', HELD, 'waits') // another waiter costs no more
    const { length } = looks
    for (let second = 0; second < 60; second++) await clock.advance(1_000)
    expect(looks.length - length).to.be.within(11, 13)
    expect(kinds()).to.deep.equal(['resync'])
    hints.delete(listener)
  })

  it('read what is due together in one request', async () => {
    const hints = hintsOf()
    hints.add(listener)
    for (const lease of ['k', 'l', 'm']) {
      store.set(lease, HELD)
      hints.want(lease, HELD, 'waits')
    }
    await clock.advance(260)
    expect(looks).to.deep.equal([['k', 'l', 'm']])
    hints.delete(listener)
  })

  it('report a release, also one before the first look, and then look often again', async () => {
    const hints = hintsOf()
    hints.add(listener)
    hints.want('l', HELD, 'waits')
    store.set('l', VACATED)
    await clock.advance(260)
    expect(heard.at(-1)).to.deep.equal({ kind: 'vacated', lease: 'l' })
    store.set('l', sightOf({ fencingToken: 2n, holder: 'b' }))
    for (let second = 0; second < 60; second++) await clock.advance(1_000)
    expect(heard.at(-1)).to.deep.equal({ kind: 'changed', lease: 'l' })
    const { length } = looks
    store.set('l', sightOf({ fencingToken: 3n })) // a term that nobody saw came and went
    for (let second = 0; second < 6; second++) await clock.advance(1_000)
    expect(heard.at(-1)).to.deep.equal({ kind: 'vacated', lease: 'l' })
    expect(looks.length - length).to.be.greaterThan(3)
    hints.delete(listener)
  })

  it('report a counted lease whenever its shares or its definition are others', async () => {
    const counted = (generation: string, shares: Readonly<Record<string, bigint>>): Sight =>
      countedSightOf({
        capacity: 2,
        generation,
        shares: new Map(
          Object.entries(shares).map(([name, fencingToken]) => [
            name,
            { holder: name, fencingToken, remainingMs: 1, value: undefined, pinned: false, version: '1' },
          ]),
        ),
      })
    const hints = hintsOf()
    hints.add(listener)
    store.set('l#', counted('g', { 'l#a': 1n, 'l#b': 2n }))
    hints.want('l#', counted('g', { 'l#b': 2n, 'l#a': 1n }), 'waits')
    await clock.advance(300)
    expect(kinds()).to.deep.equal(['resync'])
    for (const next of [counted('g', { 'l#b': 2n }), counted('g', { 'l#b': 3n }), counted('h', { 'l#b': 3n })]) {
      store.set('l#', next)
      heard = []
      await clock.advance(400)
      expect(heard).to.deep.equal([{ kind: 'vacated', lease: 'l#' }])
    }
    hints.delete(listener)
  })

  it('of a whole namespace compare with the first look, which is reported as a new beginning', async () => {
    const hints = hintsOf({ all: true })
    hints.add(listener)
    store.set('l', HELD)
    await clock.advance(260)
    expect([looks, kinds()]).to.deep.equal([[undefined], ['resync']])
    store.delete('l')
    store.set('m', HELD)
    await clock.advance(400)
    expect(heard.slice(1)).to.have.deep.members([
      { kind: 'vacated', lease: 'l' },
      { kind: 'changed', lease: 'm' },
    ])
    hints.delete(listener)
  })

  it('end with the last listener, with the watch, and with what nobody renews: no timer is left', async () => {
    const hints = hintsOf()
    hints.add(listener)
    hints.want('watched', HELD, 'watches')
    hints.want('waited', HELD, 'waits')
    expect(clock.pending).to.equal(1)
    hints.unwatch('watched')
    await clock.advance(300)
    expect(looks).to.deep.equal([['waited']])
    for (let step = 0; step < 20; step++) await clock.advance(INTEREST_MS / 10)
    expect(clock.pending).to.equal(0)
    hints.want('waited', HELD, 'waits')
    expect(clock.pending).to.equal(1)
    hints.delete(listener)
    expect(clock.pending).to.equal(0)
  })

  it('go on when the store is back, and miss nothing of what was meanwhile', async () => {
    const hints = hintsOf()
    hints.add(listener)
    store.set('l', HELD)
    hints.want('l', HELD, 'waits')
    isDown = true
    for (let second = 0; second < 20; second++) await clock.advance(1_000)
    expect(failures).to.be.greaterThan(5)
    isDown = false
    store.set('l', VACATED)
    for (let second = 0; second < 6; second++) await clock.advance(1_000)
    expect(heard.at(-1)).to.deep.equal({ kind: 'vacated', lease: 'l' })
    hints.delete(listener)
  })
})
