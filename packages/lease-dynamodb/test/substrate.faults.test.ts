/** What the SDK sends twice, or late, and what DynamoDB refuses for a time: never a false success, and never a false refusal. */
import { expect } from 'chai'
import { ErrUnknown } from 'lease-core'
import { SubstrateClient, type Op, type Substrate, type Verdict } from 'lease-core/adapter'
import type { DynamodbDriver, DynamodbSubstrate } from 'lease-dynamodb'
import { caught, claim, expire, extend, grant, newCall, pin, readOne, release, unique, unpin } from 'lease-scenes'
import { dynamodbTarget } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'
import { holdBack, loseReply, loseRequest, Wire } from './wire.ts'

const target = dynamodbTarget()
const WRITES = /UpdateItem|DeleteItem|TransactWriteItems/

describe(`faults of requests, on ${target.name}`, () => {
  let setting: Setting
  let namespace: string
  /** Goes over the wire that breaks. */
  let substrate: DynamodbSubstrate
  /** Another process, whose way is sound. */
  let other: DynamodbSubstrate
  let wire: Wire
  before(async () => {
    setting = await openSetting(target)
  })
  after(() => setting[Symbol.asyncDispose]())
  beforeEach(() => {
    namespace = unique('ns')
    const client = setting.newClient()
    wire = new Wire(client)
    substrate = setting.substrate({ client, namespace })
    other = setting.substrate({ namespace })
  })

  /** The same, where the SDK sends nothing again. */
  function sendOnce(): void {
    const client = setting.newClient({ maxAttempts: 1 })
    wire = new Wire(client)
    substrate = setting.substrate({ client, namespace })
  }

  const one = async (to: Substrate, op: Op, epoch = 0): Promise<Verdict> => {
    const [verdict] = await to.apply([op], newCall({ epoch }))
    return verdict as Verdict
  }

  /** A term of `a`, as the substrate knows it: its next write needs no read. */
  const held = (more: Parameters<typeof claim>[3] = {}) => grant(substrate, claim('l', 'a', 60_000, more))

  /** Each kind of write, on which what follows is tried. It returns the operation, and the state that it leaves. */
  const kinds: Readonly<Record<string, () => Promise<{ readonly op: Op; readonly holder: string | undefined }>>> = {
    'a claim': async () => ({ op: claim('l', 'a', 60_000), holder: 'a' }),
    'a claim over a lapsed term': async () => {
      const { version: lapsed } = await grant(other, claim('l', 'b', 10))
      return { op: claim('l', 'a', 60_000, { lapsed }), holder: 'a' }
    },
    'a claim of a share': async () => ({
      op: claim('l#a', 'a', 60_000, { share: { weight: 1, capacity: 1, passing: 0, lapsed: new Map() } }),
      holder: 'a',
    }),
    'an extension': async () => {
      const { fencingToken } = await held()
      return { op: extend('l', 'a', 90_000, { fencingToken, value: 'new' }), holder: 'a' }
    },
    'an adoption': async () => {
      const { fencingToken, nonce: from } = await held()
      const adoption = { from, nonce: unique('nonce') }
      return { op: extend('l', 'a', 90_000, { fencingToken, adoption }), holder: 'a' }
    },
    'a release': async () => {
      const { fencingToken } = await held()
      return { op: release('l', 'a', { fencingToken }), holder: undefined }
    },
    'a release of a share': async () => {
      const share = { weight: 1, capacity: 1, passing: 0, lapsed: new Map<string, string>() }
      const { fencingToken } = await grant(substrate, claim('l#a', 'a', 60_000, { share }))
      return { op: release('l#a', 'a', { fencingToken }), holder: undefined }
    },
    'an expiry': async () => {
      const { version } = await held()
      return { op: expire('l', version), holder: undefined }
    },
    'a pin': async () => ({ op: pin('l', 'operator'), holder: undefined }),
    'an unpin': async () => {
      const op = pin('l', 'operator')
      await one(substrate, op)
      return { op: unpin('l', 'operator', op.generation), holder: undefined }
    },
    'a definition': async () => ({
      op: { kind: 'define', lease: 'l#', capacity: 3, from: undefined, generation: unique('g') },
      holder: undefined,
    }),
  }

  for (const [kind, prepare] of Object.entries(kinds)) {
    it(`${kind} whose reply is lost is granted once, when the SDK sends it again`, async () => {
      const { op, holder } = await prepare()
      wire.plan(WRITES, loseReply)
      const verdict = await one(substrate, op)
      expect(wire.isThrough).to.equal(true)
      expect(verdict.outcome).to.equal('granted')
      expect(verdict.holding?.holder).to.equal(holder)
      // What it says is what the store has.
      const found = await readOne(other, op.lease)
      expect(found?.version).to.equal(verdict.holding?.version)
      expect(found?.fencingToken).to.equal(verdict.holding?.fencingToken)
      if (op.kind === 'extend') expect(found?.remainingMs).to.equal(90_000)
    })

    it(`${kind} whose request is lost is granted, when the SDK sends it again`, async () => {
      const { op, holder } = await prepare()
      wire.plan(WRITES, loseRequest)
      const { outcome, holding } = await one(substrate, op)
      expect([outcome, holding?.holder]).to.deep.equal(['granted', holder])
      expect((await readOne(other, op.lease))?.version).to.equal(holding?.version)
    })

    it(`${kind} that the SDK sends twice changes nothing when its first copy comes last`, async () => {
      const { op } = await prepare()
      const first = holdBack()
      wire.plan(WRITES, first.accident)
      expect((await one(substrate, op)).outcome).to.equal('granted')
      const state = async () => {
        const [held, pinned, counted] = await Promise.all([
          readOne(other, op.lease),
          other.pinned(newCall(), [op.lease]),
          other.counted('l#', newCall()),
        ])
        return { held, pinned, counted }
      }
      const before = await state()
      await first.arrive()
      expect(await state()).to.deep.equal(before)
    })

    it(`${kind} that the SDK has sent again, and that was throttled, is in doubt`, async () => {
      const { op } = await prepare()
      const throttled = throttling(setting.client, { times: 1, attempts: 3 })
      const slow = setting.substrate({ client: throttled.driver, namespace })
      const { outcome, cause } = await one(slow, op)
      expect(throttled.count).to.equal(1)
      expect(outcome).to.equal('unknown')
      expect((cause as Error).message).to.match(/throttles these requests/)
      expect((await one(slow, op)).outcome).to.equal('granted')
    })
  }

  it('a claim that another overtakes, after its first copy was lost, is refused for the other', async () => {
    await other.read(undefined, newCall())
    await one(substrate, release('l', 'a')) // the lease is known to be vacant
    wire.plan(WRITES, async (send) => {
      await grant(other, claim('l', 'b', 60_000))
      return loseRequest(send)
    })
    const { outcome, holding } = await one(substrate, claim('l', 'a', 60_000))
    expect([outcome, holding?.holder]).to.deep.equal(['refused', 'b'])
  })

  it('a claim that was given up opens no term once its lease was found vacant', async () => {
    sendOnce()
    const late = holdBack()
    wire.plan(WRITES, late.accident)
    const op = claim('l', 'a', 60_000)
    expect((await one(substrate, op)).outcome).to.equal('unknown')
    // The clean-up finds nothing, and makes sure that nothing comes any more.
    expect((await one(substrate, release('l', 'a', { nonce: op.nonce }), 1)).outcome).to.equal('granted')
    await late.arrive()
    expect(await readOne(other, 'l')).to.equal(undefined)
  })

  it('a claim of a share that was given up takes no room once its lease was found vacant', async () => {
    sendOnce()
    const late = holdBack()
    wire.plan(WRITES, late.accident)
    const share = { weight: 1, capacity: 1, passing: 0, lapsed: new Map<string, string>() }
    const op = claim('l#a', 'a', 60_000, { share })
    expect((await one(substrate, op)).outcome).to.equal('unknown')
    expect((await one(substrate, release('l#a', 'a', { nonce: op.nonce }), 1)).outcome).to.equal('granted')
    await late.arrive()
    expect((await other.counted('l#', newCall())).shares.size).to.equal(0)
    expect((await one(other, claim('l#b', 'b', 60_000, { share }))).outcome).to.equal('granted')
  })

  it('a claim of an earlier epoch opens no term, also after the lease was released', async () => {
    const op = claim('l', 'a', 60_000)
    await one(substrate, release('l', 'a', { nonce: op.nonce }), 1)
    expect((await one(substrate, op, 0)).outcome).to.equal('late')
    expect(await readOne(other, 'l')).to.equal(undefined)
  })

  it('a conflict with a transaction is met again until it is over', async () => {
    const conflicts = throttling(setting.client, { times: 3, attempts: 1, name: 'TransactionConflictException' })
    const between = setting.substrate({ client: conflicts.driver, namespace })
    expect((await one(between, claim('l', 'a', 60_000))).outcome).to.equal('contended')
    const client = new SubstrateClient({ substrate: between })
    await client.claimLease('l', { holder: 'a', duration: 60_000 })
    expect(conflicts.count).to.equal(3)
    await client.close()
  })

  it('a transaction that conflicts with another is met again until it is over', async () => {
    const conflicts = throttling(setting.client, {
      times: 2,
      attempts: 1,
      name: 'TransactionCanceledException',
      more: { CancellationReasons: [{ Code: 'TransactionConflict' }, { Code: 'None' }] },
    })
    const client = new SubstrateClient({ substrate: setting.substrate({ client: conflicts.driver, namespace }) })
    await client.claimLease('l#a', { holder: 'a', duration: 60_000, share: { weight: 1, capacity: 1 } })
    expect(conflicts.count).to.equal(2)
    await client.close()
  })

  it('throttling that does not end is reported, and nothing is held', async () => {
    const throttled = throttling(setting.client, { times: Number.POSITIVE_INFINITY, attempts: 1 })
    const client = new SubstrateClient({ substrate: setting.substrate({ client: throttled.driver, namespace }) })
    const error = await caught(client.claimLease('l', { holder: 'a', duration: 60_000 }))
    expect(error).to.be.instanceOf(ErrUnknown)
    expect(error.message)
      .to.match(/DynamoDB throttles these requests: raise the capacity/)
      .and.not.include('may have happened')
    await client.close()
    expect(await readOne(other, 'l')).to.equal(undefined)
  })

  it('a reply that is lost beyond the SDK is found by the retry of core', async () => {
    sendOnce()
    const client = new SubstrateClient({ substrate })
    wire.plan(WRITES, loseReply)
    await client.claimLease('l', { holder: 'a', duration: 60_000, value: 'mine' })
    expect(wire.isThrough).to.equal(true)
    const found = await readOne(other, 'l')
    expect(found?.fencingToken).to.equal(client.leases().get('l')?.fencingToken)
    expect(found?.value).to.equal('mine')
    await client.close()
  })
})

interface Refusals {
  readonly driver: DynamodbDriver
  /** How often it has refused. */
  readonly count: number
}

/** A driver that refuses the first writes as DynamoDB does, and says how often it has tried. */
function throttling(
  inner: DynamodbDriver,
  {
    times,
    attempts,
    name = 'ProvisionedThroughputExceededException',
    more = {},
  }: { times: number; attempts: number; name?: string; more?: object },
): Refusals {
  let count = 0
  const driver: DynamodbDriver = {
    send: (command, options) => {
      const { constructor } = command as object
      if (!WRITES.test(constructor.name) || count >= times) return inner.send(command, options)
      count++
      return Promise.reject(
        Object.assign(new Error('The request was refused'), { name, $metadata: { attempts }, ...more }),
      )
    },
  }
  return {
    driver,
    get count() {
      return count
    },
  }
}
