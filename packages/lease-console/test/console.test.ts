import { expect } from 'chai'
import { ErrNotValid } from 'lease-core'
import { createConsole, type ConsoleOptions, type OperatorAction } from 'lease-console'
import { isMatrix } from 'lease-servers'
import { Fleet, someWork } from './fleet.ts'
import { ALLOWED, get, namesIn, ORIGIN, post, type Answer } from './requests.ts'

function problemsOf(options: unknown): string {
  try {
    createConsole(options as ConsoleOptions)
  } catch (error) {
    expect(error).to.be.instanceOf(ErrNotValid)
    return (error as Error).message
  }
  throw new Error('it was accepted')
}

describe('the options of a console', () => {
  it('are refused with every problem at once', () => {
    const message = problemsOf({ managers: {}, basePath: 'leases/', pollEvery: 3, showValues: 1, colour: 'red' })
    expect(message).to.include('managers must be an object with a Manager for each namespace')
    expect(message).to.include("basePath must be '' or a path such as '/leases'")
    expect(message).to.include('pollEvery must be a duration from 100 ms to one hour')
    expect(message).to.include('showValues must be true or false')
    expect(message).to.include('colour is not an option')
  })

  it('name what to write instead of a manager alone', () => {
    expect(problemsOf(undefined)).to.include('{ managers: { billing: manager } }')
    expect(problemsOf({ managers: { billing: 'redis://:password@host' } })).to.include(
      'managers.billing must be a Manager',
    )
    expect(problemsOf({ managers: { billing: 'redis://:password@host' } })).not.to.include('password')
    expect(problemsOf({ managers: { password: 'geheim' } })).not.include('geheim')
  })

  it('are refused if everybody could revoke', async () => {
    await using fleet = new Fleet()
    expect(problemsOf({ managers: { billing: fleet.manager }, readOnly: false })).to.include('write authorize:')
  })
})

describe('a console', () => {
  let fleet: Fleet

  beforeEach(async () => {
    fleet = new Fleet()
    await someWork(fleet)
  })
  afterEach(() => fleet[Symbol.asyncDispose]())

  describe('lists', () => {
    it('each held lease with its holder, age, expiry, pins and fencing token', async () => {
      const { status, body } = await get(fleet.console(), '/api/leases?namespace=billing&filter=migrations')
      expect(status).to.equal(200)
      expect(body.held).to.equal(11)
      expect(body.nowMs).to.equal(fleet.clock.now())
      const [row] = body.rows
      expect(row?.holder).to.equal('deploy-4711')
      expect(row?.fencingToken).to.equal('5')
      expect(row?.pinnedBy).to.deep.equal(['dana'])
      expect(body.nowMs - (row?.sinceMs ?? 0)).to.be.within(47 * 60_000 - 5, 47 * 60_000 + 5)
      expect((row?.expiresMs ?? 0) - body.nowMs).to.be.within(13 * 60_000 - 5, 13 * 60_000 + 1000)
    })

    it('what matches a filter in the name, the holder or a pin, in any case', async () => {
      const console = fleet.console()
      expect(await namesIn(console, 'filter=PAYOUTS')).to.deep.equal(['payouts/eu', 'payouts/us'])
      expect(await namesIn(console, 'filter=worker-14')).to.deep.equal(['invoices'])
      expect(await namesIn(console, 'filter=finance')).to.deep.equal(['ledger/close-2026-02'])
      expect(await namesIn(console, 'filter=nothing-like-it')).to.deep.equal([])
    })

    it('in any order, and those without the key last in both', async () => {
      const console = fleet.console()
      await fleet.workers.pin('vacant', 'dana')
      const ascending = await namesIn(console, 'sort=holder')
      expect(ascending.slice(0, 2)).to.deep.equal(['migrations/billing', 'search/reindex'])
      expect(ascending.at(-1)).to.equal('vacant')
      const descending = await namesIn(console, 'sort=holder&order=descending')
      expect(descending.slice(0, 2)).to.deep.equal(['payouts/us', 'invoices'])
      expect(descending.at(-1)).to.equal('vacant')
      expect((await namesIn(console, 'sort=token')).slice(0, 2)).to.deep.equal(['search/reindex', 'leader/payments'])
    })

    it('the leases held longest, those that expire soon, and the pinned ones', async () => {
      const console = fleet.console()
      await fleet.workers.pin('vacant', 'dana')
      expect((await namesIn(console, 'view=longest')).slice(0, 2)).to.deep.equal(['search/reindex', 'leader/payments'])
      expect((await namesIn(console, 'view=expiring')).slice(0, 2)).to.deep.equal(['account-42', 'mail/digest'])
      expect(await namesIn(console, 'view=expiring')).not.to.include('migrations/billing')
      expect(await namesIn(console, 'view=pinned')).to.deep.equal([
        'ledger/close-2026-02',
        'migrations/billing',
        'vacant',
      ])
    })

    it('one page, and the last one instead of a page after it', async () => {
      const console = fleet.console()
      const { body } = await get(console, '/api/leases?namespace=billing&size=4&page=2')
      expect(body).to.include({ page: 2, pages: 3, matching: 11 })
      expect(body.rows.map(({ lease }) => lease)).to.deep.equal(await namesIn(console, 'size=4&page=2'))
      expect((await get(console, '/api/leases?namespace=billing&size=4&page=99')).body).to.include({ page: 3 })
      expect((await get(console, '/api/leases?namespace=billing&size=-1&page=x')).body).to.include({
        page: 1,
        pages: 1,
      })
    })

    it('a value only if the console and the viewer want it', async () => {
      const open = fleet.console({ showValues: true })
      const shut = fleet.console()
      const values = 'namespace=billing&filter=invoices&values=true'
      expect((await get(open, `/api/leases?${values}`)).body.rows[0]?.value).to.equal('batch 118 of 240')
      expect((await get(open, `/api/lease?${values}&lease=invoices`)).body.row.value).to.equal('batch 118 of 240')
      for (const [console, query] of [
        [shut, values],
        [open, 'namespace=billing&filter=invoices'],
      ] as const) {
        for (const path of ['leases', 'lease']) {
          const { body } = await get(console, `/api/${path}?${query}&lease=invoices`)
          expect(JSON.stringify(body)).not.to.include('batch')
        }
      }
    })

    const many = isMatrix() ? 100_000 : 20_000
    it(`${many} leases by pages of 50, read once for all viewers`, async function () {
      this.timeout(600_000)
      await using crowd = new Fleet()
      const claimMs = await cpuMs(() => crowd.claimMany(many))
      crowd.substrate.resetCounts()
      const console = crowd.console({ pollEvery: { hours: 1 } })
      const text = async (query: string): Promise<string> =>
        (await console(new Request(`${ORIGIN}/api/leases?namespace=billing&${query}`))).text()
      const first = await text(`page=${many / 50}&sort=since`)
      expect(first.length).to.be.lessThan(20_000)
      const answer = JSON.parse(first) as Answer
      expect(answer).to.include({ page: many / 50, pages: many / 50, matching: many, held: many })
      expect(answer.rows).to.have.length(50)
      // account-010424 and the like.
      expect(JSON.parse(await text('filter=0424'))).to.include({ matching: isMatrix() ? 120 : 12 })
      const pagesMs = await cpuMs(async () => {
        for (let page = 1; page <= 20; page++) await text(`page=${page}&sort=since`)
      })
      expect(crowd.substrate.counts.read).to.equal(1)
      expect(pagesMs, `20 pages; the claims took ${claimMs} ms`).to.be.lessThan(claimMs)
    })
  })

  describe('shows one lease', () => {
    it('at a permanent address', async () => {
      const { body } = await get(fleet.console(), '/api/lease?namespace=billing&lease=payouts%2Feu')
      expect(body.row).to.include({ lease: 'payouts/eu', holder: 'worker-03', fencingToken: '7' })
    })

    it('with how many processes wait for it', async () => {
      const ask = async (): Promise<unknown> =>
        (await get(fleet.console(), '/api/lease?namespace=billing&lease=invoices')).body.row.waiting
      expect(await ask()).to.equal(0)
      const stop = new AbortController()
      const waiting = fleet.workers
        .hold('invoices', 'worker-15', { duration: 30_000, wait: true, signal: stop.signal })
        .catch((error: unknown) => error)
      await fleet.clock.settle()
      expect(await ask()).to.equal(1)
      stop.abort()
      await waiting
      await fleet.clock.settle()
      expect(await ask()).to.equal(0)
    })

    it('also if it is vacant', async () => {
      const { status, body } = await get(fleet.console(), '/api/lease?namespace=billing&lease=nobody')
      expect(status).to.equal(200)
      expect(body.row).to.deep.equal({ lease: 'nobody', pinnedBy: [], waiting: 0 })
    })

    it('and says what is wrong with a name that no lease can have', async () => {
      const { status, body } = await get(fleet.console(), '/api/lease?namespace=billing&lease=a.b')
      expect(status).to.equal(400)
      expect(body.error).to.include('lease must not contain any of . # $')
    })
  })

  describe('revokes', () => {
    const revoke = { namespace: 'billing', lease: 'invoices', fencingToken: '6', confirm: 'invoices' }

    it('exactly the term on screen, and says how long its holder may go on relying on it', async () => {
      const done: OperatorAction[] = []
      const revoked: unknown[] = []
      fleet.manager.events.subscribe((event) => event.type === 'revoked' && revoked.push(event.lease))
      const console = fleet.console({ ...ALLOWED, onAction: (action) => done.push(action) })
      const { status, body } = await post(console, '/api/revoke', revoke)
      expect(status).to.equal(200)
      expect(body.reliesForMs).to.be.within(25_000, 27_000)
      expect(body.message).to.match(/worker-14 may go on relying on it for at most 2\d seconds/)
      expect(body.message).to.include('every guard refuses writes with the fencing token 6')
      expect(await fleet.workers.find('invoices')).to.equal(undefined)
      expect(done).to.deep.equal([
        {
          who: 'dana',
          what: 'revoke',
          namespace: 'billing',
          lease: 'invoices',
          fencingToken: 6n,
          entity: undefined,
          outcome: 'done',
        },
      ])
      await fleet.clock.settle()
      expect(revoked).to.deep.equal(['invoices'])
    })

    it('nothing if another term is current by then', async () => {
      const done: OperatorAction[] = []
      const console = fleet.console({ ...ALLOWED, onAction: (action) => done.push(action) })
      await fleet.workers.revoke('invoices')
      expect((await post(console, '/api/revoke', revoke)).body.error).to.include('nobody holds the lease now')
      await fleet.claim('invoices', 'worker-99', 30_000)
      const { status, body } = await post(console, '/api/revoke', revoke)
      expect(status).to.equal(409)
      expect(body.error).to.include('nothing was revoked: the term with the fencing token 6 is over')
      expect(body.error).to.include('worker-99 holds the lease now')
      expect((await fleet.workers.find('invoices'))?.holder).to.equal('worker-99')
      expect(done).to.deep.equal([])
    })

    it('nothing without the typed name, or with a body that is not one', async () => {
      const console = fleet.console(ALLOWED)
      for (const [body, says] of [
        [{ ...revoke, confirm: 'invoice' }, 'the typed name is not the name of the lease'],
        [{ ...revoke, confirm: undefined }, 'the typed name is not the name of the lease'],
        [{ ...revoke, fencingToken: 6 }, 'fencingToken of the term on screen'],
        [{ ...revoke, fencingToken: undefined }, 'fencingToken of the term on screen'],
        [{ ...revoke, lease: 1 }, 'must have namespace and lease'],
        ['{"namespace"', 'is not JSON'],
        ['null', 'must have namespace and lease'],
      ] as const) {
        const answer = await post(console, '/api/revoke', body)
        expect(answer.status).to.equal(400)
        expect(answer.body.error).to.include(says)
      }
      expect((await post(console, '/api/revoke', 'x'.repeat(20_000))).status).to.equal(413)
      expect((await fleet.workers.find('invoices'))?.holder).to.equal('worker-14')
    })

    it('and reports an unknown outcome as one, also in the trail', async () => {
      const done: OperatorAction[] = []
      const console = fleet.console({ ...ALLOWED, onAction: (action) => done.push(action) })
      fleet.substrate.reject(new Error('ECONNREFUSED'), { kind: 'release' })
      const { status, body } = await fleet.clock.drive(post(console, '/api/revoke', revoke))
      expect(status).to.equal(503)
      expect(body.error).to.include('it may have taken effect')
      expect(done.map(({ outcome }) => outcome)).to.deep.equal(['unknown'])
    })

    it('nothing while the store cannot be read, and says so', async () => {
      const done: OperatorAction[] = []
      const console = fleet.console({ ...ALLOWED, onAction: (action) => done.push(action) })
      fleet.substrate.reject(new Error('ECONNREFUSED'))
      const { status, body } = await fleet.clock.drive(post(console, '/api/revoke', revoke))
      expect(status).to.equal(503)
      expect(body.error).to.include('nothing was done')
      expect(done).to.deep.equal([])
    })
  })

  describe('pins', () => {
    const pin = { namespace: 'billing', lease: 'invoices', fencingToken: '6', entity: 'dana', confirm: 'invoices' }

    it('a lease, held or vacant, and withdraws the pin', async () => {
      const done: OperatorAction[] = []
      const console = fleet.console({ ...ALLOWED, onAction: (action) => done.push(action) })
      expect((await post(console, '/api/pin', pin)).body.message).to.include('Pinned for dana.')
      await post(console, '/api/pin', { ...pin, lease: 'vacant', confirm: 'vacant', fencingToken: undefined })
      expect(await namesIn(console, 'filter=dana')).to.deep.equal(['invoices', 'migrations/billing', 'vacant'])
      expect((await post(console, '/api/unpin', pin)).body.message).to.include('The pin of dana is gone.')
      expect((await fleet.workers.pinned()).has('invoices')).to.equal(false)
      expect(done.map(({ what, lease, fencingToken }) => [what, lease, fencingToken])).to.deep.equal([
        ['pin', 'invoices', 6n],
        ['pin', 'vacant', undefined],
        ['unpin', 'invoices', 6n],
      ])
    })

    it('nothing without an entity that can pin, or without the typed name', async () => {
      const console = fleet.console(ALLOWED)
      const without = await post(console, '/api/pin', { ...pin, entity: undefined })
      expect(without).to.deep.include({ status: 400 })
      const wrong = await post(console, '/api/pin', { ...pin, entity: 'two words' })
      expect(wrong.status).to.equal(400)
      expect(wrong.body.error).to.include('entity must not contain white space')
      expect((await post(console, '/api/pin', { ...pin, confirm: '' })).status).to.equal(400)
      expect((await fleet.workers.pinned()).has('invoices')).to.equal(false)
    })
  })
})

/** How much of the processor the work takes, in milliseconds. */
async function cpuMs(work: () => Promise<void>): Promise<number> {
  const before = process.cpuUsage()
  await work()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1000
}
