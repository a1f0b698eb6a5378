/** The takeover that rests on clocks: only where it is asked for, and not before the holder's clock has certainly passed the end. */
import { expect } from 'chai'
import { Manager, systemClock, type Clock } from 'lease-core'
import { dynamodbClient } from 'lease-dynamodb'
import { claim, extend, grant, pin, release, settle, unique } from 'lease-scenes'
import { dynamodbTarget, until } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'
import { Wire } from './wire.ts'

const target = dynamodbTarget()
const HOUR_MS = 3_600_000

describe(`a takeover by clocks, on ${target.name}`, () => {
  let setting: Setting
  let namespace: string
  before(async () => {
    setting = await openSetting(target)
  })
  after(() => setting[Symbol.asyncDispose]())
  beforeEach(() => (namespace = unique('ns')))

  /** A clock whose wall shows so much more. */
  const ahead = (ms: number): Clock => ({ ...systemClock, now: () => systemClock.now() + ms })

  const outcomeOf = async (clock: Clock, maxSkewMs: number | undefined, op = claim('l', 'b', HOUR_MS)) =>
    (await settle(setting.substrate({ namespace, clock, maxSkewMs }), op)).outcome

  it('is not done unless the option is given, however late it is', async () => {
    await grant(setting.substrate({ namespace }), claim('l', 'a', HOUR_MS))
    expect(await outcomeOf(ahead(50 * HOUR_MS), undefined)).to.equal('refused')
    expect(await outcomeOf(ahead(50 * HOUR_MS), 1_000)).to.equal('granted')
  })

  it('is done once the end of the grant and the skew have passed, and not before', async () => {
    await grant(setting.substrate({ namespace }), claim('l', 'a', HOUR_MS))
    expect(await outcomeOf(ahead(2.9 * HOUR_MS), 2 * HOUR_MS)).to.equal('refused')
    expect(await outcomeOf(ahead(3.1 * HOUR_MS), 2 * HOUR_MS)).to.equal('granted')
  })

  it('counts from the latest extension, and never from an earlier end', async () => {
    const holder = setting.substrate({ namespace })
    const { fencingToken } = await grant(holder, claim('l', 'a', HOUR_MS))
    await grant(holder, extend('l', 'a', 5 * HOUR_MS, { fencingToken }))
    await grant(holder, extend('l', 'a', 1_000, { fencingToken }))
    // A holder whose clock was set back since it was granted that.
    await grant(setting.substrate({ namespace, clock: ahead(-9 * HOUR_MS) }), extend('l', 'a', 1_000, { fencingToken }))
    expect(await outcomeOf(ahead(4.9 * HOUR_MS), 0)).to.equal('refused')
    expect(await outcomeOf(ahead(5.1 * HOUR_MS), 0)).to.equal('granted')
  })

  it('opens a later term, and leaves what is pinned', async () => {
    const first = await grant(setting.substrate({ namespace }), claim('l', 'a', 1))
    await settle(setting.substrate({ namespace }), pin('l', 'operator'))
    expect(await outcomeOf(ahead(HOUR_MS), 0)).to.equal('refused')
    const other = await grant(setting.substrate({ namespace }), claim('m', 'a', 1))
    const second = await grant(
      setting.substrate({ namespace, clock: ahead(HOUR_MS), maxSkewMs: 0 }),
      claim('m', 'b', 1),
    )
    expect(second.fencingToken > other.fencingToken).to.equal(true)
    await settle(setting.substrate({ namespace }), release('l', 'a', { fencingToken: first.fencingToken }))
  })

  it('makes room among the shares of a counted lease', async () => {
    const share = { weight: 1, capacity: 1, passing: 0, lapsed: new Map<string, string>() }
    await grant(setting.substrate({ namespace }), claim('l#a', 'a', HOUR_MS, { share }))
    const next = claim('l#b', 'b', HOUR_MS, { share })
    expect(await outcomeOf(ahead(0.9 * HOUR_MS), 0, next)).to.equal('refused')
    expect(await outcomeOf(ahead(1.1 * HOUR_MS), 0, next)).to.equal('granted')
  })

  it('ends the wait of one who came long after the holder has died', async () => {
    await grant(setting.substrate({ namespace }), claim('l', 'a', HOUR_MS))
    await grant(
      setting.substrate({ namespace }),
      claim('k#a', 'a', HOUR_MS, { share: { weight: 1, capacity: 1, passing: 0, lapsed: new Map() } }),
    )
    let offsetMs = 0
    const clock: Clock = { ...systemClock, now: () => systemClock.now() + offsetMs }
    const { table } = setting
    const client = setting.newClient()
    const { sent } = new Wire(client)
    const leases = dynamodbClient({ client, table, namespace, clock, maxSkewMs: 1_000 })
    const manager = new Manager({ client: leases })
    const options = { duration: HOUR_MS, wait: true, renewEvery: false } as const
    const waiting = manager.hold('l', 'b', options)
    const waitingForShare = manager.hold('k', 'b', { ...options, share: { weight: 1, capacity: 1 } })
    // Both claims were refused, and both have looked again.
    await until('looks', () => count(sent, 'GetItem') >= 3 && count(sent, 'Query') >= 2)
    offsetMs = 2 * HOUR_MS
    await (await waiting).release()
    await (await waitingForShare).release()
    await manager.stop()
    await leases.close()
  })

  it('is a number of milliseconds', () => {
    const { client, table } = setting
    for (const maxSkewMs of [-1, Number.NaN, Number.POSITIVE_INFINITY, '1s' as unknown as number]) {
      expect(() => dynamodbClient({ client, table, namespace, maxSkewMs })).to.throw(/maxSkewMs/)
    }
  })
})

function count(sent: readonly string[], operation: string): number {
  return sent.filter((one) => one === operation).length
}
