import { expect } from 'chai'
import type { Call, Verdict } from 'lease-core/adapter'
import { enoughOf, type Postgres, postgresTargets, startPostgres, startProxy } from 'lease-servers'
import { migrate, PostgresSubstrate } from 'lease-postgres'
import { Pool } from 'pg'
import { claim, eventually, grant, newCall, noneUnheard, readOne, release, settle, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

for (const target of enoughOf(postgresTargets())) {
  describe(`failures, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    const verdictOf = async (substrate: PostgresSubstrate, op = claim(unique('l'), 'a', 1_000)): Promise<Verdict> => {
      const [verdict] = await substrate.apply([op], newCall())
      return verdict ?? expect.fail()
    }
    const causeOf = async (substrate: PostgresSubstrate): Promise<Error> => {
      const { outcome, cause } = await verdictOf(substrate)
      expect(outcome).to.equal('unknown')
      const reading = await substrate.read(undefined, newCall()).catch((error: unknown) => error)
      expect(reading).to.be.instanceOf(Error)
      return cause as Error
    }

    it('a missing function says what to run, a missing table too, and is forgotten once it is there', async () => {
      const substrate = setting.substrate({ table: 'later' })
      const cause = await causeOf(substrate)
      expect(cause.message).to.match(/migrate\(\).*migrationSql\(\).*function lease_claim_\w+\(.*\) does not exist/)
      expect(cause.cause).to.have.property('code', '42883')
      const reading = await substrate.read(undefined, newCall()).catch((error: unknown) => error)
      expect((reading as Error).message).to.match(
        /migrate\(\).*migrationSql\(\).*function lease_read_all_\w+\(.*\) does not exist/,
      )
      const reason = await substrate.time(newCall()).catch((error: unknown) => error)
      expect((reason as Error).message).to.match(
        /migrate\(\).*migrationSql\(\).*relation "later_layout" does not exist/,
      )
      expect((reason as Error).cause).to.have.property('code', '42P01')
      const inspection = await substrate.inspect(newCall())
      expect(inspection).to.be.an('array')
      await migrate(setting.pool, { table: 'later' })
      expect(await verdictOf(substrate)).to.have.property('outcome', 'granted')
    })

    it('tables of an earlier version get their functions from migrate', async () => {
      await migrate(setting.pool, { table: 'grown' })
      const substrate = setting.substrate({ table: 'grown' })
      const op = claim('l', 'a', 60_000)
      const { fencingToken } = await grant(substrate, op)
      const { rows } = await setting.pool.query<{ name: string }>(
        `SELECT oid::regprocedure::text AS name FROM pg_proc WHERE proname LIKE 'lease\\_%' AND prosrc LIKE '%"grown"%'`,
      )
      expect(rows).to.have.length.greaterThan(20)
      for (const { name } of rows) await setting.pool.query(`DROP FUNCTION ${name}`)
      expect((await verdictOf(substrate)).cause)
        .to.have.property('message')
        .that.matches(/functions are missing.*migrate/)
      await migrate(setting.pool, { table: 'grown' })
      expect(await grant(substrate, op)).to.include({ holder: 'a', fencingToken })
    })

    it('a missing schema says the same', async () => {
      expect((await causeOf(setting.substrate({ schema: 'nowhere' }))).message).to.match(/migrate\(\)/)
    })

    it('a read-only session says to connect to the primary, and inspection warns of it', async () => {
      const pool = setting.newPool({ options: '-c default_transaction_read_only=on' })
      const substrate = setting.substrate({ pool })
      const { outcome, cause } = await verdictOf(substrate)
      expect(outcome).to.equal('unknown')
      expect((cause as Error).message).to.match(/read-only.*primary/)
      expect((await substrate.inspect(newCall())).map(({ warning }) => warning)).to.include('read-only')
    })

    it('inspection warns of settings that weaken a grant, and of nothing else', async () => {
      const warningsOf = async (settings: string): Promise<string[]> => {
        const pool = setting.newPool({ options: settings })
        return (await setting.substrate({ pool }).inspect(newCall())).map(({ warning }) => warning)
      }
      expect(await warningsOf('-c synchronous_commit=off')).to.include('synchronous-commit-off')
      const calm = await warningsOf('-c synchronous_commit=on')
      expect(calm.filter((warning) => warning !== 'fsync-off')).to.deep.equal([])
      await setting.pool.query('ALTER TABLE lease SET UNLOGGED')
      expect(await warningsOf('')).to.include('unlogged-table')
      await setting.pool.query('ALTER TABLE lease SET LOGGED')
    })

    it('a role without rights, a missing database, a wrong password, no server: each says so', async function () {
      const role = setting.newPool({ options: '-c role=pg_monitor' })
      expect((await causeOf(setting.substrate({ pool: role }))).message).to.match(/lacks a right/)
      const url = new URL(setting.url)
      url.pathname = '/no_such_database'
      const nowhere = setting.newPool({ connectionString: url.href })
      expect((await causeOf(setting.substrate({ pool: nowhere }))).message).to.match(/database does not exist/)
      url.port = '1'
      const dead = setting.newPool({ connectionString: url.href })
      const refusal = await causeOf(setting.substrate({ pool: dead }))
      expect(refusal.message).to.match(/is it running/)
      expect(refusal.cause).to.have.property('code', 'ECONNREFUSED')
      if (target.passwordUrl === undefined) return
      const wrong = new URL(target.passwordUrl)
      wrong.password = 'wrong'
      const stranger = setting.newPool({ connectionString: wrong.href })
      expect((await causeOf(setting.substrate({ pool: stranger }))).message).to.match(/refused the credentials/)
    })

    it('one kind of operation failing leaves the verdicts of the others', async () => {
      await setting.pool.query('CREATE ROLE keeper; GRANT SELECT, UPDATE ON lease, lease_floor, lease_waiter TO keeper')
      try {
        const substrate = setting.substrate({ pool: setting.newPool({ options: '-c role=keeper' }) })
        const verdicts = await substrate.apply(
          [claim('x', 'a', 1_000), release('y', 'a', { fencingToken: 1n })],
          newCall(),
        )
        expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(['unknown', 'granted'])
      } finally {
        await setting.pool.query('DROP OWNED BY keeper; DROP ROLE keeper')
      }
    })

    it('a lost reply is unknown, and the same claim sent again finds its own term', async () => {
      await using proxy = await startProxy(setting.url)
      const pool = setting.newPool({ connectionString: proxy.url(setting.url) })
      const substrate = setting.substrate({ pool })
      await grant(substrate, claim('warm', 'a', 60_000))
      const op = claim('l', 'a', 60_000)
      const cut = proxy.cutAfterRequest()
      expect(await verdictOf(substrate, op)).to.have.property('outcome', 'unknown')
      await cut
      const { rows } = await setting.pool.query(`SELECT token FROM lease WHERE name = 'l' AND holder = 'a'`)
      const again = await grant(substrate, op)
      expect(String(again.fencingToken)).to.equal(rows[0].token)
      expect(await settle(substrate, claim('l', 'a', 60_000))).to.have.property('outcome', 'refused')
    })

    it('a claim given up is released by its nonce', async () => {
      const substrate = setting.substrate()
      const op = claim('l', 'a', 60_000)
      await grant(substrate, op)
      expect(await settle(substrate, release('l', 'a', { nonce: op.nonce }))).to.have.property('outcome', 'granted')
      expect(await readOne(substrate, 'l')).to.equal(undefined)
    })

    for (const how of ['by its signal', 'by calling back'] as const) {
      it(`a call given up ${how} closes its connection, and its late answer reaches nobody`, async () => {
        await using proxy = await startProxy(setting.url)
        const pool = setting.newPool({ connectionString: proxy.url(setting.url), max: 1 })
        const substrate = setting.substrate({ pool })
        await grant(substrate, claim('warm', 'a', 60_000))
        proxy.hold()
        const { call, giveUp } = callToGiveUp(how)
        const pending = substrate.apply([claim('slow', 'a', 60_000)], call)
        await eventually(() => pool.idleCount === 0) // the statement is on its way
        giveUp(new Error('given up'))
        expect(pool.totalCount).to.equal(0) // at once: an idle one, too, is closed in the end
        expect((await pending)[0]).to.have.property('outcome', 'unknown')
        proxy.resume()
        expect(await grant(substrate, claim('next', 'b', 60_000))).to.include({ holder: 'b' })
        expect(pool.totalCount).to.equal(1)
      })

      it(`a call given up ${how} while it waits for a connection is never sent`, async () => {
        const pool = setting.newPool({ max: 1 })
        const substrate = setting.substrate({ pool })
        const busy = await pool.connect()
        const { call, giveUp } = callToGiveUp(how)
        const pending = substrate.apply([claim('never', 'a', 60_000)], call)
        giveUp(new Error('given up'))
        busy.release()
        expect((await pending)[0]).to.have.property('outcome', 'unknown')
        expect(await readOne(substrate, 'never')).to.equal(undefined)
        expect(pool.idleCount).to.equal(1)
      })
    }

    it('an idle connection that breaks does not end the process', async () => {
      const application = unique('victim')
      const pool = new Pool({ connectionString: setting.url, application_name: application }) // nobody listens to its errors
      const substrate = setting.substrate({ pool })
      await grant(substrate, claim('l', 'a', 60_000))
      await setting.pool.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1', [
        application,
      ])
      await eventually(() => pool.totalCount === 0)
      expect(await readOne(substrate, 'l')).to.include({ holder: 'a' })
      await pool.end()
    })

    it('a connection that breaks in the middle of a statement makes it unknown and ends nothing', async () => {
      const application = unique('victim')
      const pool = setting.newPool({ application_name: application })
      const substrate = setting.substrate({ pool })
      const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
      const rival = await setting.pool.connect()
      await rival.query('BEGIN')
      await rival.query('LOCK TABLE lease IN ACCESS EXCLUSIVE MODE')
      const op = release('l', 'a', { fencingToken })
      const pending = substrate.apply([op], newCall())
      await setting.waitedFor(rival)
      await rival.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1', [
        application,
      ])
      expect((await pending)[0]).to.have.property('outcome', 'unknown')
      await rival.query('ROLLBACK')
      rival.release()
      expect(await settle(substrate, op)).to.have.property('outcome', 'granted')
    })
  })
}

describe('a server of our own', () => {
  let server: Postgres
  before(async () => {
    server = await startPostgres({ version: 15, durable: true })
  })
  after(() => server.stop())

  it('that is killed and comes back finds leases, tokens and listeners where they were', async () => {
    const pool = new Pool({ connectionString: server.url })
    await migrate(pool)
    const substrate = new PostgresSubstrate({ pool, namespace: 'n' })
    let resyncs = 0
    let vacated = 0
    substrate.watch?.((change) => (change.kind === 'resync' ? resyncs++ : vacated++))
    await eventually(() => resyncs >= 1)
    const { fencingToken } = await grant(substrate, claim('l', 'a', 600_000))
    await server.kill()
    const [verdict] = await substrate.apply([claim('m', 'a', 1_000)], newCall())
    expect(verdict).to.have.property('outcome', 'unknown')
    await server.restart()
    await eventually(() => resyncs >= 2)
    expect(await readOne(substrate, 'l')).to.include({ holder: 'a', fencingToken })
    await settle(substrate, release('l', 'a', { fencingToken }))
    await eventually(() => vacated >= 1)
    expect((await grant(substrate, claim('l', 'b', 1_000))).fencingToken > fencingToken).to.equal(true)
    await substrate.close()
    await pool.end()
  })
})

/** A call, and how to give it up; anyone who listens in the other way hears nothing. */
function callToGiveUp(how: 'by its signal' | 'by calling back'): { call: Call; giveUp: (why: Error) => void } {
  const controller = new AbortController()
  if (how === 'by its signal')
    return { call: newCall({ signal: controller.signal }), giveUp: (why) => controller.abort(why) }
  const listeners: ((why: Error) => void)[] = []
  return {
    call: newCall({ onAbort: (listener) => void listeners.push(listener) }),
    giveUp: (why) => listeners.forEach((listener) => listener(why)),
  }
}
