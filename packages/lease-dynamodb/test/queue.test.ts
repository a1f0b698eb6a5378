/** The queue of those who wait is in the item of the lease: nobody enters it twice, and no claim overtakes it. */
import { expect } from 'chai'
import type { LeaseChange } from 'lease-core'
import { INTEREST_MS, type ClaimOp, type Substrate, type Verdict } from 'lease-core/adapter'
import { TestClock } from 'lease-core/testing'
import type { DynamodbSubstrate } from 'lease-dynamodb'
import { claim, extend, grant, newCall, readOne, release, unique } from 'lease-scenes'
import { dynamodbTarget, until } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'
import { holdBack, loseReply, Wire } from './wire.ts'

const target = dynamodbTarget()
const CROWD = 12

describe(`the queue, on ${target.name}`, () => {
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

  const send = async (to: Substrate, op: ClaimOp): Promise<Verdict> => {
    for (;;) {
      const [verdict] = await to.apply([op], newCall())
      if (verdict?.outcome !== 'contended') return verdict as Verdict
    }
  }
  const waiter = (place = 0, more: Partial<ClaimOp> = {}): ClaimOp => claim('l', 'w', 60_000, { place, ...more })
  const size = (): Promise<number> => other.waiting('l', newCall())

  it('has one ticket for a claim that was sent twice, by the SDK or by core', async () => {
    const client = setting.newClient()
    const wire = new Wire(client)
    substrate = setting.substrate({ client, namespace })
    await grant(other, claim('l', 'a', 60_000))
    const op = waiter()
    wire.plan(/UpdateItem/, loseReply)
    const first = await send(substrate, op)
    expect(wire.isThrough).to.equal(true)
    expect((await send(setting.substrate({ namespace }), op)).ticket).to.deep.equal(first.ticket)
    expect([first.ticket?.ahead, await size()]).to.deep.equal([0, 1])
  })

  it('does not get a waiter back whose first copy comes when it has left', async () => {
    const client = setting.newClient()
    const wire = new Wire(client)
    substrate = setting.substrate({ client, namespace })
    await grant(other, claim('l', 'a', 60_000))
    const first = holdBack()
    wire.plan(/UpdateItem/, first.accident)
    const { ticket } = await send(substrate, waiter())
    await substrate.apply([{ kind: 'leave', lease: 'l', place: ticket?.place }], newCall())
    await first.arrive()
    expect(await size()).to.equal(0)
  })

  it('is not overtaken by a claim of one that knows the lease as it was before', async () => {
    await grant(substrate, claim('l', 'a', 60_000))
    await substrate.apply([release('l', 'a')], newCall()) // known here to be vacant, with nobody in the queue
    await grant(other, claim('l', 'b', 60_000))
    const first = await send(other, waiter())
    await other.apply([release('l', 'b')], newCall())
    const { outcome, ticket } = await send(substrate, waiter())
    expect([outcome, ticket?.ahead]).to.deep.equal(['refused', 1])
    expect((await send(other, waiter(first.ticket?.place))).outcome).to.equal('granted')
  })

  it('gives each of a crowd its own place, while the holder goes on renewing', async () => {
    const holding = await grant(substrate, claim('l', 'a', 60_000))
    const crowd = Array.from({ length: CROWD }, () => send(setting.substrate({ namespace }), waiter()))
    const renewals = async (): Promise<void> => {
      for (let times = 0; times < 5; times++) await grant(substrate, extend('l', 'a', 60_000, { seen: holding }))
    }
    const [verdicts] = await Promise.all([Promise.all(crowd), renewals()])
    const places = verdicts.map(({ ticket }) => ticket?.place).toSorted((one = 0, next = 0) => one - next)
    expect(places).to.deep.equal(Array.from({ length: CROWD }, (_, index) => index + 1))
    expect(await size()).to.equal(CROWD)
    expect((await readOne(other, 'l'))?.fencingToken).to.equal(holding.fencingToken)
  })

  it('forgets a ticket that nobody renews, and keeps one that is renewed', async () => {
    const clock = new TestClock()
    substrate = setting.substrate({ namespace, clock })
    await grant(substrate, claim('l', 'a', 60_000))
    const [first, second] = [await send(substrate, waiter()), await send(substrate, waiter())]
    await clock.advance(INTEREST_MS * 0.6)
    expect((await send(substrate, waiter(second.ticket?.place))).ticket?.ahead).to.equal(1)
    await clock.advance(INTEREST_MS * 0.6)
    expect((await send(substrate, waiter(0, { maxWaiters: 2 }))).ticket?.ahead).to.equal(1)
    expect((await send(substrate, waiter(first.ticket?.place))).ticket).to.deep.equal(first.ticket)
    expect((await send(substrate, waiter(second.ticket?.place))).ticket?.ahead).to.equal(1)
  })

  it('reports the end of a term to a holder that began to listen when it had the term', async () => {
    const clock = new TestClock()
    substrate = setting.substrate({ namespace, clock })
    const { client } = newCall()
    const op = claim('l', 'a', 60_000, { nonce: unique(client) })
    const { fencingToken } = await grant(substrate, op)
    const heard: LeaseChange[] = []
    const stop = substrate.watch((change) => heard.push(change), client)
    await other.apply([release('l', 'a', { fencingToken })], newCall())
    await clock.advance(15_000)
    await until('word of the end', () => heard.some(({ kind }) => kind === 'vacated'))
    stop()
  })

  it('costs a waiter that claims again no write, as long as its ticket is fresh', async () => {
    const client = setting.newClient()
    const wire = new Wire(client)
    substrate = setting.substrate({ client, namespace })
    await grant(other, claim('l', 'a', 60_000))
    const { ticket } = await send(substrate, waiter())
    wire.sent.length = 0
    await send(substrate, waiter(ticket?.place))
    expect(wire.sent).to.deep.equal(['GetItem'])
  })

  it('gives no place twice, also when nobody is in it any more', async () => {
    await grant(substrate, claim('l', 'a', 60_000))
    const { ticket } = await send(substrate, waiter())
    await substrate.apply([release('l', 'a')], newCall())
    await grant(substrate, waiter(ticket?.place))
    expect([ticket?.place, await size()]).to.deep.equal([1, 0])
    expect((await send(other, waiter())).ticket).to.deep.equal({ place: 2, ahead: 0 })
  })
})
