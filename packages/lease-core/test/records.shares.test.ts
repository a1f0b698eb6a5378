/** Shares of a counted lease: what their weights leave, the next in the queue, and the notified ones. */
import { expect } from 'chai'
import { sharesLikeMemoryWithoutClock } from 'lease-scenes'
import type { FoundRecords } from '#src/records/record.ts'
import { StoreFailure, type ClaimOp, type ShareOp, type Substrate, type Verdict } from '#src/substrate.ts'
import { TestClock } from '#src/testing/index.ts'
import { ask, claim, CLIENT, grant, MapStore, MapSubstrate, newCall, OTHER, release } from './records.setting.ts'

describe('shares on a store of records', () => {
  let clock: TestClock
  let store: MapStore
  let substrate: MapSubstrate
  /** Another process. */
  let other: MapSubstrate
  beforeEach(() => {
    clock = new TestClock()
    store = new MapStore()
    substrate = new MapSubstrate(store, clock)
    other = new MapSubstrate(store, clock)
  })

  sharesLikeMemoryWithoutClock(() => new MapSubstrate(new MapStore(), clock), 40)

  const share = (weight: number, more: Partial<ShareOp> = {}): ShareOp => ({
    weight,
    capacity: 4,
    passing: 0,
    lapsed: new Map(),
    ...more,
  })
  const take = (holder: string, weight: number, more: Partial<ClaimOp> = {}, to: Substrate = substrate) =>
    ask(to, claim(`l#${holder}`, holder, { share: share(weight), ...more }))
  let generations = 0
  const define = (capacity: number | undefined, from: string | undefined, generation = `g${++generations}`) =>
    ask(substrate, { kind: 'define', lease: 'l#', capacity, from, generation })
  const generation = async (): Promise<string | undefined> => (await other.counted('l#', newCall())).generation
  /** Ends the share, while somebody listens: only then the verdict names the notified ones. */
  const end = async (holder: string): Promise<Verdict> => {
    const stop = substrate.watch(() => {}, CLIENT)
    try {
      return await ask(substrate, release(`l#${holder}`, holder))
    } finally {
      stop()
    }
  }

  it('are granted up to the capacity, by their weights, and not above it', async () => {
    expect((await take('a', 3)).outcome).to.equal('granted')
    expect((await take('b', 2)).outcome).to.equal('refused')
    expect((await take('c', 1, {}, other)).outcome).to.equal('granted')
    expect((await take('d', 1)).outcome).to.equal('refused')
  })

  it('with another capacity, or too heavy for it, are refused without a ticket', async () => {
    await take('a', 4)
    for (const refused of [share(1, { capacity: 5 }), share(5, { capacity: undefined })]) {
      const { outcome, ticket } = await take('b', 0, { share: refused, place: 0 })
      expect([outcome, ticket]).to.deep.equal(['refused', undefined])
    }
    expect((await take('b', 1, { place: 0 })).ticket).to.include({ ahead: 0 })
  })

  it('that lapsed make room in the version that was observed, and in no other', async () => {
    const { version = '' } = await grant(substrate, claim('l#a', 'a', { share: share(4) }))
    const over = (lapsed: string) => take('b', 1, { share: share(1, { lapsed: new Map([['l#a', lapsed]]) }) })
    expect((await over('another')).outcome).to.equal('refused')
    expect((await over(version)).outcome).to.equal('granted')
    expect([...(await other.counted('l#', newCall())).shares.keys()]).to.deep.equal(['l#b'])
  })

  it('wait behind a heavier one, also those that do not wait', async () => {
    await take('a', 3)
    const heavy = await take('b', 2, { place: 0 })
    expect(heavy.ticket).to.include({ ahead: 0 })
    expect((await take('c', 1, { place: 0 })).ticket).to.include({ ahead: 1 })
    expect((await take('d', 1)).outcome).to.equal('refused')
    const passing = { place: 2, share: share(1, { passing: 1 }) } // for one with a lighter share ahead
    expect((await take('c', 1, passing)).outcome).to.equal('refused')
    expect((await end('a')).told).to.equal(2) // both of those who wait
    expect((await take('b', 2, { place: heavy.ticket?.place })).outcome).to.equal('granted')
  })

  it('that could be had are pointed out to those ahead, by each claim that meets only their tickets', async () => {
    await take('a', 4)
    for (const holder of ['b', 'c']) await take(holder, 4, { place: 0 })
    await ask(substrate, release('l#a', 'a')) // nobody listens
    const { version } = store.recordOf('l#') ?? expect.fail('counted')
    const third = await take('d', 4, { place: 0 })
    expect([third.ticket, third.told]).to.deep.equal([{ place: 3, ahead: 2 }, 2])
    const { version: entered } = store.recordOf('l#') ?? expect.fail('counted')
    // One that has its ticket writes nothing new, but another version.
    const second = await take('c', 4, { place: 2 })
    expect([second.ticket, second.told]).to.deep.equal([{ place: 2, ahead: 1 }, 2])
    expect(new Set([version, entered, store.recordOf('l#')?.version]).size).to.equal(3)
  })

  it('are released also where it cannot be found out which ones are notified', async () => {
    await take('a', 4)
    await take('b', 4, { place: 0 })
    store.plan('read', async () => {
      throw new StoreFailure('away', { isNotDone: true })
    })
    const { outcome, told } = await end('a')
    expect([outcome, told, store.isThrough]).to.deep.equal(['granted', undefined, true])
    expect((await other.counted('l#', newCall())).shares.size).to.equal(0)
  })

  it('are not passed over while there is no room for the first that waits', async () => {
    await take('a', 4)
    const { ticket } = await take('b', 1, { place: 0 })
    const passOver = { kind: 'passOver', lease: 'l#', place: ticket?.place ?? 0 } as const
    await ask(substrate, passOver)
    expect(await other.waiting('l#', newCall())).to.equal(1)
    await end('a')
    await ask(substrate, passOver)
    expect(await other.waiting('l#', newCall())).to.equal(0)
  })

  it('have the capacity of the definition, which is changed by one that has seen it', async () => {
    await define(4, undefined)
    const first = await generation()
    await take('a', 4)
    await take('b', 3, { place: 0, share: share(3) })
    await take('c', 1, { place: 0 })
    expect((await define(9, 'another')).outcome).to.equal('refused')
    // A heavy one waits in vain now.
    const smaller = await define(2, first)
    const waiting = await other.waiting('l#', newCall())
    expect([smaller.outcome, smaller.told, waiting]).to.deep.equal(['granted', undefined, 1])
    const larger = await define(5, await generation())
    expect([larger.outcome, larger.told]).to.deep.equal(['granted', 2])
  })

  it('are not defined by what was sent before, nor again by a copy', async () => {
    const op = { kind: 'define', lease: 'l#', capacity: 4, from: undefined, generation: 'first' } as const
    await ask(substrate, op)
    await define(undefined, op.generation)
    expect((await ask(other, op)).outcome).to.equal('late')
    await substrate.apply([], newCall({ epoch: 1 }))
    const stale = { ...op, generation: 'second' }
    expect((await ask(substrate, stale, newCall({ epoch: 0 }))).outcome).to.equal('late')
    expect(await generation()).to.equal(undefined)
    // Another client has sent nothing since.
    expect((await ask(substrate, stale, newCall({ epoch: 0, client: OTHER }))).outcome).to.equal('granted')
  })

  it('that are refused define what was not defined, and not again by a copy', async () => {
    await take('a', 4)
    await define(undefined, await generation())
    const nonce = `${CLIENT}n`
    const ofRefused = () => take('b', 2, { nonce, durationMs: 60_000 })
    expect([(await ofRefused()).outcome, await generation()]).to.deep.equal(['refused', nonce])
    const days = ((store.recordOf('l#')?.expires ?? 0) * 1000 - clock.now() - 60_000) / 86_400_000
    expect(days).to.be.within(8, 8.001)
    await define(undefined, nonce)
    expect([(await ofRefused()).outcome, await generation()]).to.deep.equal(['late', undefined])
  })

  it('have one row of fencing tokens, whichever process grants them', async () => {
    const tokens: bigint[] = []
    const slow = new TestClock({ wallMs: clock.now() - 3_600_000 })
    other = new MapSubstrate(store, slow)
    for (const holder of ['a', 'b', 'a', 'c']) {
      const to = tokens.length % 2 === 0 ? substrate : other
      const { fencingToken } = await grant(to, claim(`l#${holder}`, holder, { share: share(1) }))
      tokens.push(fencingToken)
      if (holder === 'a') await ask(to, release('l#a', 'a', { fencingToken }))
    }
    expect(tokens).to.deep.equal([...new Set(tokens)].toSorted((one, next) => (one < next ? -1 : 1)))
  })

  it('are counted anew where another grant came between the reads, or before the write', async () => {
    await take('a', 2)
    store.plan('write', async (send) => {
      await take('b', 2, {}, other)
      return send()
    })
    expect((await take('c', 2)).outcome).to.equal('refused')
    await end('b')
    store.plan('readAll', async (send) => {
      const answer = await send() // without the share that is granted now
      await take('d', 2, {}, other)
      return answer
    })
    expect((await take('e', 2)).outcome).to.equal('refused')
    expect(store.isThrough).to.equal(true)
  })

  it('are not granted over a counted lease that has changed between its read and that of its shares', async () => {
    await take('a', 2, {}, other)
    const gate = store.recordOf('l#')
    // The store reads a namespace in parts: here the shares as they were before the grant, with the counted lease as it is after it.
    store.plan('readAll', async (send) => {
      const shares = await send()
      await take('b', 2, {}, other)
      return new Map([...(shares as FoundRecords), ['l#', store.recordOf('l#')]]) as typeof shares
    })
    expect((await take('c', 2)).outcome).to.equal('refused')
    expect(store.recordOf('l#')).not.to.equal(gate)
    expect([...(await other.counted('l#', newCall())).shares.keys()]).to.deep.equal(['l#a', 'l#b'])
  })

  it('keep the definition that a claim has made a day longer than the last of them', async () => {
    await grant(substrate, claim('l#a', 'a', { durationMs: 60_000, share: share(1) }))
    const days = ((store.recordOf('l#')?.expires ?? 0) * 1000 - clock.now() - 60_000) / 86_400_000
    expect(days).to.be.within(8, 8.001)
    await define(4, await generation())
    expect(store.recordOf('l#')?.expires).to.equal(undefined)
  })
})
