import { expect } from 'chai'
import type { LeaseChange } from 'lease-core'
import { INTEREST_MS, type Call, type Verdict } from 'lease-core/adapter'
import { collect, type PostgresSubstrate } from 'lease-postgres'
import {
  claim,
  eventually,
  expire,
  extend,
  grant,
  newCall,
  noneUnheard,
  pin,
  readOne,
  release,
  settle,
  sleep,
  unique,
  unpin,
} from 'lease-scenes'
import { enough, enoughOf, type Postgres, postgresTargets, startPostgres } from 'lease-servers'
import { Client } from 'pg'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

/** So long that nobody finds out by itself. */
const longMs = 600_000
/** How often somebody registers while the lease is released. */
const ROUNDS = enough(40)

let clients = 0
/** As `newCall`, of a client of its own. */
function callOfOwn(): Call {
  return newCall({ client: `client-${String(++clients).padStart(5, '0')}` })
}

/** What one client is notified. */
class Listener {
  readonly call = callOfOwn()
  readonly substrate: PostgresSubstrate
  readonly heard: LeaseChange[] = []
  readonly stop: () => void

  constructor(substrate: PostgresSubstrate) {
    this.substrate = substrate
    this.stop = substrate.watch?.((change) => void this.heard.push(change), this.call.client) ?? expect.fail()
  }

  async listens(): Promise<this> {
    await eventually(() => this.heard.length > 0, 'the connection that listens')
    return this
  }

  /** Waits until it is notified that the lease is vacant. */
  async hears(lease: string): Promise<void> {
    await eventually(() => this.tellsOf(lease).length > 0, `word of the vacancy of ${lease}`)
  }

  tellsOf(lease: string): LeaseChange[] {
    return this.heard.filter((change) => 'lease' in change && change.lease === lease)
  }

  async watches(lease: string): Promise<boolean> {
    return (await this.substrate.read([lease], this.call, [lease])).has(lease)
  }

  /** One claim of one who waits; `contended` is asked again, as core does. */
  async claims(lease: string, place = 0, maxWaiters?: number): Promise<Verdict> {
    for (;;) {
      const [verdict] = await this.substrate.apply([claim(lease, 'w', longMs, { place, maxWaiters })], this.call)
      if (verdict?.outcome === 'unknown') throw verdict.cause
      if (verdict !== undefined && verdict.outcome !== 'contended') return verdict
      await sleep(Math.random() * 3)
    }
  }
}

for (const target of enoughOf(postgresTargets())) {
  describe(`those who wait, on ${target.name}`, () => {
    let setting: Setting
    let namespace: string
    let substrate: PostgresSubstrate
    const listeners: Listener[] = []
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => {
      namespace = unique('ns')
      substrate = setting.substrate({ namespace, listen: false })
    })
    afterEach(() => listeners.splice(0).forEach(({ stop }) => stop()))

    const listener = (): Promise<Listener> => {
      const own = new Listener(setting.substrate({ namespace }))
      listeners.push(own)
      return own.listens()
    }
    const waiters = async (): Promise<{ name: string; place: number; client: string }[]> => {
      const { rows } = await setting.pool.query(
        'SELECT name, place::float8, client FROM lease_waiter WHERE ns = $1 ORDER BY name, place, client',
        [namespace],
      )
      return rows
    }
    /** As if nobody had renewed what is there for longer than it counts. */
    const expireInterests = (): Promise<unknown> =>
      setting.pool.query(`UPDATE lease_waiter SET until = until - $2 * interval '1 millisecond' WHERE ns = $1`, [
        namespace,
        INTEREST_MS + 1,
      ])

    for (const isolation of ['read committed', 'repeatable read']) {
      it(`sleep through no vacancy, whenever they register while it comes about, where transactions are ${isolation}`, async function () {
        this.timeout(300_000)
        const pool = setting.newPool({ options: `-c default_transaction_isolation=${isolation.replace(' ', '\\ ')}` })
        const holder = setting.substrate({ namespace, pool, listen: false })
        const [watcher, waiter] = [await listener(), await listener()]
        const pause = (): Promise<unknown> => (Math.random() < 0.3 ? sleep(Math.random() * 3) : Promise.resolve())
        const met = { watched: 0, waited: 0 }
        for (let round = 1; round <= ROUNDS; round++) {
          const lease = `l${round}`
          const { fencingToken, nonce } = await grant(holder, claim(lease, 'a', longMs))
          const releases = async (): Promise<void> => {
            await pause()
            await settle(holder, release(lease, 'a', { fencingToken, nonce }))
          }
          const watches = async (): Promise<void> => {
            await pause()
            if (!(await watcher.watches(lease))) return
            met.watched++
            await watcher.hears(lease)
          }
          const waits = async (): Promise<void> => {
            await pause()
            const { outcome, holding } = await waiter.claims(lease)
            if (outcome === 'granted') {
              // Anyone who saw this term is to hear of its end.
              await settle(holder, release(lease, 'w', { fencingToken: holding?.fencingToken }))
              return
            }
            met.waited++
            await waiter.hears(lease)
          }
          await Promise.all([releases(), watches(), waits()])
          for (const { heard } of [watcher, waiter]) heard.length = 0
        }
        expect(met.watched, 'how many watched a lease that was held').to.be.greaterThan(0)
        expect(met.waited, 'how many waited for one').to.be.greaterThan(0)
      })
    }

    it('are notified of the first term of a lease that nobody had heard of, no matter who comes first', async () => {
      const watcher = await listener()
      for (let round = 1; round <= 200; round++) {
        const lease = `l${round}`
        const [isHeld] = await Promise.all([
          watcher.watches(lease),
          settle(substrate, claim(lease, 'a', longMs, { announce: true })),
        ])
        if (!isHeld) await watcher.hears(lease)
      }
    })

    it('are notified by a claim that waited for the row of a lease that nobody had heard of', async () => {
      const watcher = await listener()
      const other = await setting.pool.connect()
      try {
        // Anyone who watches such a lease makes its row: here it stands still before its COMMIT.
        await other.query('BEGIN')
        await other.query('INSERT INTO lease (ns, name, token, expiry) VALUES ($1, $2, 0, clock_timestamp())', [
          namespace,
          'l',
        ])
        await other.query(
          `INSERT INTO lease_waiter (ns, name, place, client, until) VALUES ($1, 'l', 0, $2, now() + interval '1 hour')`,
          [namespace, watcher.call.client],
        )
        const claiming = settle(substrate, claim('l', 'a', longMs, { announce: true }))
        await setting.waitedFor(other)
        await other.query('COMMIT')
        expect(await claiming).to.include({ outcome: 'granted' })
        await watcher.hears('l')
      } finally {
        other.release()
      }
    })

    it('are in the queue no more often than the claim allows, however many come at once', async () => {
      await grant(substrate, claim('l', 'a', longMs))
      const all = Array.from({ length: 12 }, () => new Listener(setting.substrate({ namespace })))
      listeners.push(...all)
      const verdicts = await Promise.all(all.map((one) => one.claims('l', 0, 5)))
      expect(verdicts.filter(({ ticket }) => ticket !== undefined)).to.have.length(5)
      expect(verdicts.filter(({ isFull }) => isFull === true)).to.have.length(7)
      expect(new Set(verdicts.flatMap(({ ticket }) => ticket?.place ?? [])).size).to.equal(5)
      expect(await waiters()).to.have.length(5)
    })

    it('get larger and larger tickets, also when the queue was empty, and keep one that was forgotten', async () => {
      const { fencingToken } = await grant(substrate, claim('l', 'a', longMs))
      const waiter = await listener()
      const first = await waiter.claims('l')
      await settle(waiter.substrate, release('l', 'a', { fencingToken }))
      expect(await waiter.claims('l', first.ticket?.place)).to.include({ outcome: 'granted' })
      expect(await waiters()).to.deep.equal([])
      const other = await listener()
      const second = await other.claims('l')
      expect(second.ticket?.ahead).to.equal(0)
      expect(second.ticket?.place).to.be.greaterThan(first.ticket?.place ?? expect.fail())
      await setting.pool.query('DELETE FROM lease_waiter WHERE ns = $1', [namespace])
      expect((await other.claims('l', second.ticket?.place)).ticket).to.deep.equal(second.ticket)
      const third = await waiter.claims('l')
      expect(third.ticket?.ahead).to.equal(1)
    })

    it('are notified who stands where, and anyone who ends a term learns who was notified last', async () => {
      const { fencingToken } = await grant(substrate, claim('l', 'a', longMs))
      const [first, second, third] = [await listener(), await listener(), await listener()]
      const places: number[] = []
      for (const one of [first, second, third]) places.push((await one.claims('l')).ticket?.place ?? expect.fail())
      const told = (one: Listener): unknown => one.tellsOf('l')
      const released = await settle(substrate, release('l', 'a', { fencingToken }))
      expect(released).to.deep.include({ outcome: 'granted', told: places[1] })
      await second.hears('l')
      await first.hears('l')
      expect(told(first)).to.deep.equal([{ kind: 'vacated', lease: 'l', to: { place: places[0], ahead: 0 } }])
      expect(told(second)).to.deep.equal([{ kind: 'vacated', lease: 'l', to: { place: places[1], ahead: 1 } }])
      const passed = await settle(substrate, { kind: 'passOver', lease: 'l', place: places[1] ?? expect.fail() })
      expect(passed).to.deep.include({ outcome: 'granted', told: places[2] })
      await third.hears('l')
      expect(told(third)).to.deep.equal([{ kind: 'vacated', lease: 'l', to: { place: places[2], ahead: 0 } }])
      const [left] = await third.substrate.apply([{ kind: 'leave', lease: 'l', place: places[2] }], third.call)
      expect(left).to.deep.include({ outcome: 'granted' })
      expect(await waiters()).to.deep.equal([])
    })

    it('are notified by every way to become vacant', async () => {
      const ways: Readonly<Record<string, (lease: string) => Promise<Verdict>>> = {
        release: async (lease) => {
          const { fencingToken } = (await readOne(substrate, lease)) ?? expect.fail()
          return settle(substrate, release(lease, 'a', { fencingToken }))
        },
        withdrawal: (lease) => settle(substrate, release(lease, 'a', { nonce: `nonce-of-${lease}` })),
        expiry: async (lease) => {
          await setting.lapse(lease)
          return settle(substrate, expire(lease))
        },
        unpin: async (lease) => {
          await settle(substrate, pin(lease, 'e', 'g'))
          await setting.lapse(lease)
          return settle(substrate, unpin(lease, 'e', 'g'))
        },
        pin: async (lease) => {
          await setting.lapse(lease)
          return settle(substrate, pin(lease, 'e'))
        },
      }
      const [watcher, waiter] = [await listener(), await listener()]
      for (const [way, vacate] of Object.entries(ways)) {
        const lease = unique('lease')
        await grant(substrate, claim(lease, 'a', longMs, { nonce: `nonce-of-${lease}` }))
        const { ticket } = await waiter.claims(lease)
        expect(await watcher.watches(lease), way).to.equal(true)
        expect(await vacate(lease), way).to.include({ outcome: 'granted', told: ticket?.place })
        await watcher.hears(lease)
        await waiter.hears(lease)
      }
    })

    it('have their terms ended by another: the client that opened or adopted it is notified, and nobody for its own doing', async () => {
      const [former, later] = [await listener(), await listener()]
      const nonceOf = ({ call }: Listener): string => `${call.client}${unique('n')}`
      const { fencingToken, nonce } = await grant(substrate, claim('l', 'a', longMs, { nonce: nonceOf(former) }))
      const adoption = { from: nonce, nonce: nonceOf(later) }
      await grant(substrate, extend('l', 'a', longMs, { fencingToken, adoption }))
      await settle(substrate, release('l', 'a', { fencingToken }))
      await later.hears('l')
      const own = await grant(later.substrate, claim('own', 'a', longMs, { nonce: nonceOf(later) }))
      await later.substrate.apply([release('own', 'a', { fencingToken: own.fencingToken })], later.call)
      const last = await grant(substrate, claim('last', 'a', longMs, { nonce: nonceOf(later) }))
      await settle(substrate, release('last', 'a', { fencingToken: last.fencingToken }))
      await later.hears('last')
      expect(later.tellsOf('own')).to.deep.equal([])
      expect(former.tellsOf('l')).to.deep.equal([])
    })

    it('leave nothing behind when they do not come again: not where they are met, and not for collect', async () => {
      const [watcher, waiter] = [await listener(), await listener()]
      const { fencingToken } = await grant(substrate, claim('met', 'a', longMs))
      await watcher.watches('met')
      await waiter.claims('met')
      await grant(substrate, claim('never', 'a', longMs))
      await watcher.watches('never')
      await expireInterests()
      expect(await settle(substrate, claim('met', 'b', longMs, { place: 0 }))).to.deep.include({ outcome: 'refused' })
      await expireInterests()
      expect(await settle(substrate, release('met', 'a', { fencingToken }))).to.not.have.property('told')
      expect((await waiters()).map(({ name }) => name)).to.deep.equal(['never'])
      expect(await settle(substrate, claim('met', 'b', longMs, { place: 0 }))).to.include({ outcome: 'granted' })
      await collect(setting.pool, { namespace, retention: longMs })
      expect(await waiters()).to.deep.equal([])
      expect(watcher.tellsOf('met')).to.deep.equal([])
    })

    it('that are gone cost those nothing who release another lease', async () => {
      const pool = setting.newPool({ max: 1 })
      const one = setting.substrate({ namespace, pool, listen: false })
      await setting.pool.query('ALTER TABLE lease_waiter SET (autovacuum_enabled = off)')
      await setting.pool.query(
        `INSERT INTO lease_waiter (ns, name, place, client, until)
         SELECT $1, CASE WHEN g % 2 = 0 THEN 'gone' ELSE 'gone' || g END, g % 3, 'c' || g, now() - interval '1 hour'
         FROM generate_series(1, 10000) g`,
        [namespace],
      )
      const fetched = async (): Promise<number> => {
        await pool.query('SELECT pg_stat_force_next_flush()')
        const { rows } = await pool.query(
          `SELECT (seq_tup_read + idx_tup_fetch)::int AS count FROM pg_stat_user_tables WHERE relname = 'lease_waiter'`,
        )
        return rows[0].count
      }
      const before = await fetched()
      for (let round = 0; round < 10; round++) {
        const { fencingToken } = await grant(one, claim('l', 'a', longMs, { announce: true }))
        await settle(one, release('l', 'a', { fencingToken }))
      }
      // Other connections report late what they have read of the few rows before; ten thousand would be read each time.
      expect((await fetched()) - before).to.be.below(10_000)
    })

    it('of the whole namespace are notified once nobody is at work that may have missed that they are there', async () => {
      await grant(substrate, claim('l', 'a', longMs))
      const other = await setting.pool.connect()
      const heard: LeaseChange[] = []
      let stop: (() => void) | undefined
      try {
        await other.query('BEGIN')
        await other.query('UPDATE lease SET holder = NULL WHERE ns = $1', [namespace])
        const sinceMs = performance.now()
        stop = setting.substrate({ namespace }).watch?.((change) => void heard.push(change))
        await eventually(async () => (await waiters()).length === 1)
        const isInTime = performance.now() - sinceMs < 2_000
        if (isInTime) expect(heard).to.deep.equal([])
        await other.query('COMMIT')
        await eventually(() => heard.length > 0)
        expect(heard).to.deep.equal([{ kind: 'resync' }])
      } finally {
        other.release()
        stop?.()
      }
      await eventually(async () => (await waiters()).length === 0)
    })

    it('wait for no row that somebody else has locked: others of the batch are answered', async () => {
      for (const lease of ['l', 'm']) await grant(substrate, claim(lease, 'a', longMs))
      const waiter = await listener()
      const other = await setting.pool.connect()
      try {
        await other.query('BEGIN')
        await other.query('SELECT FROM lease WHERE ns = $1 AND name = $2 FOR UPDATE', [namespace, 'l'])
        const ops = ['l', 'm'].map((lease) => claim(lease, 'w', longMs, { place: 0 }))
        const verdicts = await waiter.substrate.apply(ops, waiter.call)
        expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(['contended', 'refused'])
        await other.query('ROLLBACK')
        await other.query('BEGIN')
        // As a guard does.
        await other.query('SELECT FROM lease WHERE ns = $1 AND name = $2 FOR KEY SHARE', [namespace, 'l'])
        const [verdict] = await waiter.substrate.apply(ops.slice(0, 1), waiter.call)
        expect(verdict).to.have.property('outcome', 'refused')
        expect(await waiter.watches('l')).to.equal(true)
        await other.query('ROLLBACK')
      } finally {
        other.release()
      }
    })
  })
}

describe('where nobody waits, on a server of their own', () => {
  let server: Postgres
  before(async () => {
    server = await startPostgres({ version: 18 })
  })
  after(() => server.stop())

  it('operations notify nobody', async () => {
    await using setting = await openSetting(server)
    const namespace = 'n'
    const substrate = setting.substrate({ namespace })
    const [listener, sleeper] = [new Listener(substrate), new Client({ connectionString: setting.url })]
    await listener.listens()
    sleeper.on('error', () => {})
    await sleeper.connect()
    // What is sent from now on stays in the queue of the server.
    for (const statement of ['LISTEN anything', 'BEGIN', 'SELECT 1']) await sleeper.query(statement)
    const isEmpty = async (): Promise<boolean> =>
      (await setting.pool.query('SELECT pg_notification_queue_usage() = 0 AS is_empty')).rows[0].is_empty
    const work = async (rounds: number): Promise<void> => {
      for (let round = 0; round < rounds; round++) {
        const lease = `l${round}`
        const announce = true
        const nonce = `${listener.call.client}${unique('n')}`
        const apply = (...ops: Parameters<PostgresSubstrate['apply']>[0]): Promise<readonly Verdict[]> =>
          substrate.apply(ops, listener.call)
        const [claimed] = await apply(claim(lease, 'a', longMs, { announce, nonce }))
        const { fencingToken } = claimed?.holding ?? expect.fail()
        await apply(extend(lease, 'a', longMs, { fencingToken, value: `v${round}`, announce }))
        await apply(pin(lease, 'e', 'g'))
        await apply(unpin(lease, 'e', 'g'))
        await apply(release(lease, 'a', { fencingToken, nonce }))
        await apply(claim(lease, 'a', 1, { nonce: `${listener.call.client}${unique('n')}`, place: 0 }))
        await sleep(2)
        await apply(expire(lease))
      }
    }
    try {
      await work(300)
      expect(await isEmpty(), 'the queue of notifications').to.equal(true)
      // The measure itself: with somebody who watches the namespace it is not empty.
      const stop = substrate.watch?.(() => {})
      await eventually(async () => (await setting.pool.query('SELECT FROM lease_waiter')).rowCount === 1)
      await work(300)
      expect(await isEmpty(), 'the queue of notifications').to.equal(false)
      stop?.()
    } finally {
      listener.stop()
      await sleeper.end()
    }
  })
})
