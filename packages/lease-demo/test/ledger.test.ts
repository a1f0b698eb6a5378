import { expect } from 'chai'
import { ErrLost, ErrNotHeld, Manager, memoryClient, type Hold } from 'lease-core'
import { dynamodbProtocol, isMatrix, startProxy, type Proxy } from 'lease-servers'
import type { Ledger, LedgerOffice, Posting } from '#src/ledger.ts'
import { transfer, type TransferOptions } from '#src/transfer.ts'
import { venueNamed } from '#src/venues.ts'
import { DynamodbGround, EtcdGround, type Ground, PostgresGround, RedisGround } from './grounds.ts'

const opening = { alice: 100, bob: 100 }
const order = { from: 'alice', to: 'bob', amount: 30 }
const moved = { alice: 70, bob: 130 }

async function held(manager: Manager): Promise<ReadonlyMap<string, Hold>> {
  const holds = new Map<string, Hold>()
  for (const account of ['alice', 'bob']) {
    holds.set(account, await manager.hold(account, 'cyan', { duration: 60_000 }))
  }
  return holds
}

/** What the write of a posting looks like on its way to the server. */
const writing = {
  postgres: /COMMIT|INSERT INTO/,
  redis: /RPUSH|evalsha/i,
  etcd: /entry\/bob/,
  dynamodb: /TransactWriteItems/,
} as const

const others = isMatrix() ? [new PostgresGround(), new EtcdGround(), new DynamodbGround()] : []

for (const ground of [new RedisGround(), ...others] as const satisfies readonly Ground[]) {
  describe(`the ledger on ${ground.name}`, () => {
    let proxy: Proxy
    let office: LedgerOffice
    let ledger: LedgerOffice
    let manager: Manager

    before(() => ground.open())
    after(() => ground.close())
    beforeEach(async () => {
      const url = Object.values(ground.env)[0]?.split(',')[0] ?? ''
      const venue = await venueNamed(ground.name)
      const scope = `lease_demo_${process.pid}_ledger`
      proxy = await (ground.name === 'dynamodb' ? startProxy(url, dynamodbProtocol) : startProxy(url))
      office = venue.officeAt({ url, scope })
      await office.open(opening)
      ledger = venue.officeAt({ url: proxy.url(url), scope })
      manager = new Manager({ client: ledger.client })
    })
    afterEach(async () => {
      await manager.stop()
      await ledger[Symbol.asyncDispose]()
      await office.drop()
      await office[Symbol.asyncDispose]()
      await proxy.close()
    })

    for (const guarded of [true, false]) {
      const how = guarded ? 'guarded' : 'unguarded'

      it(`${how}: a write whose connection was dropped while its process stood still is done`, async () => {
        const holds = await held(manager)
        // Cut in the same turn of the event loop: as after a pause, nothing knows of it before the write is sent.
        await transfer(ledger, order, { holds, guarded, beforeWrite: async () => proxy.cut() })
        expect(proxy.counters.cuts).to.be.at.least(1)
        expect(await office.balances(['alice', 'bob'])).to.deep.equal(moved)
        expect(await office.entries()).to.have.length(2)
      })

      it(`${how}: a write whose answer was lost is in the books once`, async () => {
        const holds = await held(manager)
        let lost: Promise<void> | undefined
        const beforeWrite = async (): Promise<void> => {
          lost = proxy.cutAfterRequest(1, writing[ground.name])
        }
        await transfer(ledger, order, { holds, guarded, beforeWrite })
        await lost
        expect(await office.balances(['alice', 'bob'])).to.deep.equal(moved)
        expect((await office.entries()).map(({ amount }) => amount)).to.have.members([-30, 30])
      })
    }
  })
}

describe('a transfer', () => {
  /** A ledger in this process whose writes do as `attempts` says, one after the other. */
  function ledgerOf(
    attempts: readonly ('lose the answer' | 'lose the request' | 'refuse')[],
  ): Ledger & { readonly written: Posting[] } {
    const written: Posting[] = []
    const left = [...attempts]
    const write = async (postings: readonly Posting[]): Promise<void> => {
      const attempt = left.shift()
      if (attempt === 'refuse') throw new ErrNotHeld('a later term is here')
      if (attempt === 'lose the request') throw new Error('the connection was dropped')
      written.push(...postings)
      if (attempt === 'lose the answer') throw new Error('the connection was dropped')
    }
    const client = memoryClient()
    return {
      client,
      written,
      write,
      balances: async () => opening,
      guard: async () => write,
      hasEntry: async (entry) => written.some(({ fencingToken }) => fencingToken === entry.fencingToken),
      [Symbol.asyncDispose]: () => client.close(),
    }
  }

  /** With the guard, unless it says otherwise. `lapse`: the step after which alice's lease has lapsed. */
  async function outcome(
    ledger: Ledger,
    { guarded = true, lapse }: { guarded?: boolean; lapse?: 'beforeWrite' | 'blindSpot' | 'sent' } = {},
  ): Promise<unknown> {
    const manager = new Manager({ client: ledger.client })
    try {
      const holds = await held(manager)
      const at = (step: typeof lapse) => (): void => (step === lapse ? holds.get('alice')?.letLapse() : undefined)
      const options: TransferOptions = {
        holds,
        guarded,
        beforeWrite: async () => at('beforeWrite')(),
        blindSpot: at('blindSpot'),
        sent: at('sent'),
      }
      await transfer(ledger, order, options)
      return 'done'
    } catch (error) {
      return error
    } finally {
      await manager.stop()
    }
  }

  it('whose write was done, though its answer was lost and the leases lapsed before it was sent again, is not refused', async () => {
    const ledger = ledgerOf(['lose the answer', 'refuse'])
    expect(await outcome(ledger)).to.equal('done')
    expect(ledger.written).to.have.length(2)
  })

  it('whose write is refused is refused, and not sent again', async () => {
    const ledger = ledgerOf(['refuse'])
    expect(await outcome(ledger)).to.be.instanceOf(ErrNotHeld)
    expect(ledger.written).to.deep.equal([])
  })

  it('without the guard writes nothing when the worker knows that a lease is lost', async () => {
    const ledger = ledgerOf([])
    expect(await outcome(ledger, { guarded: false, lapse: 'beforeWrite' })).to.be.instanceOf(ErrLost)
    expect(ledger.written).to.deep.equal([])
  })

  it('without the guard is not sent again when the worker knows by then that a lease is lost', async () => {
    const ledger = ledgerOf(['lose the request'])
    expect(await outcome(ledger, { guarded: false, lapse: 'sent' })).to.be.instanceOf(ErrLost)
    expect(ledger.written).to.deep.equal([])
  })

  it('without the guard writes when a lease is lost in the blind spot: no check of the worker can prevent it', async () => {
    const ledger = ledgerOf([])
    expect(await outcome(ledger, { guarded: false, lapse: 'blindSpot' })).to.equal('done')
    expect(ledger.written).to.have.length(2)
  })

  it('whose write fails twice fails', async () => {
    expect(await outcome(ledgerOf(['lose the answer', 'lose the answer']))).to.have.property(
      'message',
      'the connection was dropped',
    )
  })
})
