/** Shares of a counted lease: what their weights leave, who is next, and who is notified. */
import { expect } from 'chai'
import { systemClock } from 'lease-core'
import type { ClaimOp, Substrate, Verdict } from 'lease-core/adapter'
import type { DynamodbSubstrate } from 'lease-dynamodb'
import { claim, grant, newCall, release, settle, unique } from 'lease-scenes'
import { dynamodbTarget } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'
import { Wire } from './wire.ts'

const target = dynamodbTarget()

describe(`shares, on ${target.name}`, () => {
  let setting: Setting
  let namespace: string
  let substrate: DynamodbSubstrate
  /** Another process. */
  let other: DynamodbSubstrate
  before(async () => {
    setting = await openSetting(target)
  })
  after(() => setting[Symbol.asyncDispose]())
  beforeEach(() => {
    namespace = unique('ns')
    substrate = setting.substrate({ namespace })
    other = setting.substrate({ namespace })
  })

  const share = (weight: number, more: Partial<NonNullable<ClaimOp['share']>> = {}): NonNullable<ClaimOp['share']> => ({
    weight,
    capacity: 4,
    passing: 0,
    lapsed: new Map(),
    ...more,
  })
  const take = (holder: string, weight: number, more: Partial<ClaimOp> = {}, to: Substrate = substrate) =>
    settle(to, claim(`l#${holder}`, holder, 60_000, { share: share(weight), ...more }))
  const define = (capacity: number | undefined, from: string | undefined, generation = unique('g')): Promise<Verdict> =>
    settle(substrate, { kind: 'define', lease: 'l#', capacity, from, generation })
  const generation = async (): Promise<string | undefined> => (await other.counted('l#', newCall())).generation

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
    const { version = '' } = await grant(substrate, claim('l#a', 'a', 60_000, { share: share(4) }))
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
    const { fencingToken } = (await substrate.read(['l#a'], newCall())).get('l#a') ?? expect.fail('held')
    const stop = substrate.watch(() => {}, newCall().client)
    const { told } = await settle(substrate, release('l#a', 'a', { fencingToken }))
    stop()
    expect(told).to.equal(2) // both of those who wait
    expect((await take('b', 2, { place: heavy.ticket?.place })).outcome).to.equal('granted')
  })

  it('are not passed over while there is no room for the first that waits', async () => {
    await take('a', 4)
    const { ticket } = await take('b', 1, { place: 0 })
    await settle(substrate, { kind: 'passOver', lease: 'l#', place: ticket?.place ?? 0 })
    expect(await other.waiting('l#', newCall())).to.equal(1)
    const { fencingToken } = (await substrate.read(['l#a'], newCall())).get('l#a') ?? expect.fail('held')
    await settle(substrate, release('l#a', 'a', { fencingToken }))
    await settle(substrate, { kind: 'passOver', lease: 'l#', place: ticket?.place ?? 0 })
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
    expect([smaller.outcome, smaller.told, await other.waiting('l#', newCall())]).to.deep.equal([
      'granted',
      undefined,
      1,
    ])
    const larger = await define(5, await generation())
    expect([larger.outcome, larger.told]).to.deep.equal(['granted', 2])
  })

  it('are not defined by what was sent before, nor again by a copy', async () => {
    const op = { kind: 'define', lease: 'l#', capacity: 4, from: undefined, generation: unique('g') } as const
    await settle(substrate, op)
    await define(undefined, op.generation)
    expect((await settle(other, op)).outcome).to.equal('late')
    await substrate.apply([], newCall({ epoch: 1 }))
    const [verdict] = await substrate.apply([{ ...op, generation: unique('g') }], newCall({ epoch: 0 }))
    expect(verdict?.outcome).to.equal('late')
    expect(await generation()).to.equal(undefined)
  })

  it('have one row of fencing tokens, whichever process grants them', async () => {
    const tokens: bigint[] = []
    const slow = { ...systemClock, now: () => systemClock.now() - 3_600_000 }
    other = setting.substrate({ namespace, clock: slow })
    for (const holder of ['a', 'b', 'a', 'c']) {
      const to = tokens.length % 2 === 0 ? substrate : other
      const { fencingToken } = await grant(to, claim(`l#${holder}`, holder, 60_000, { share: share(1) }))
      tokens.push(fencingToken)
      if (holder === 'a') await settle(to, release('l#a', 'a', { fencingToken }))
    }
    expect(tokens).to.deep.equal([...new Set(tokens)].toSorted((one, next) => (one < next ? -1 : 1)))
  })

  it('are counted anew where another grant came between the reads', async () => {
    const client = setting.newClient()
    const wire = new Wire(client)
    const slow = setting.substrate({ client, namespace })
    await take('a', 2, {}, slow)
    // Between its look at the shares and its grant another process takes what is left.
    wire.plan(/TransactWriteItems/, async (send) => {
      await take('b', 2, {}, other)
      return send()
    })
    expect((await take('c', 2, {}, slow)).outcome).to.equal('refused')
    expect(wire.isThrough).to.equal(true)
    // And between the read of the counted lease and that of its shares.
    const fresh = setting.newClient()
    const way = new Wire(fresh)
    await settle(
      other,
      release('l#b', 'b', { fencingToken: (await other.read(['l#b'], newCall())).get('l#b')?.fencingToken }),
    )
    way.plan(/Query/, async (send) => {
      const answer = await send()
      await take('d', 2, {}, other)
      return answer
    })
    expect((await take('e', 2, {}, setting.substrate({ client: fresh, namespace }))).outcome).to.equal('refused')
    expect(way.isThrough).to.equal(true)
  })
})
