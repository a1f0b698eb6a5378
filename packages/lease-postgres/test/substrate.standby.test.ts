/** A primary and its standby: what is refused there, what an answer waits for, and what a promotion keeps. */
import { expect } from 'chai'
import { Manager } from 'lease-core'
import type { Op, Verdict } from 'lease-core/adapter'
import { enoughOf, postgresTargets, startPostgresPair, until, type Postgres, type PostgresPair } from 'lease-servers'
import { inTransaction, migrate, postgresClient, PostgresSubstrate, SqlGuard } from 'lease-postgres'
import { Pool, type PoolClient } from 'pg'
import { caught, claim, extend, grant, newCall, noneUnheard, pin, readOne, release, settle, unique } from 'lease-scenes'

noneUnheard()
postgresTargets() // the same binaries

const namespace = 'standby'
const longMs = 600_000
const patient = { timeoutMs: 60_000 }
const advice = /connect to the primary/

/** What a test does with a pair; all is closed in the end. */
class Fixture implements AsyncDisposable {
  readonly pair: PostgresPair
  readonly #ends: (() => Promise<unknown>)[] = []

  private constructor(pair: PostgresPair) {
    this.pair = pair
  }

  static async open(version: 18 | 15): Promise<Fixture> {
    const fixture = new Fixture(await startPostgresPair({ version }))
    await migrate(fixture.pool(fixture.pair.primary))
    return fixture
  }

  /** Connections whose statements {@link waiting} finds. */
  pool(server: Postgres): Pool {
    const pool = new Pool({ connectionString: server.url, application_name: 'leases' })
    pool.on('error', () => {}) // servers are killed
    this.#ends.push(() => pool.end())
    return pool
  }

  substrate(server: Postgres): PostgresSubstrate {
    const substrate = new PostgresSubstrate({ pool: this.pool(server), namespace, listen: false })
    this.#ends.push(() => substrate.close())
    return substrate
  }

  manager(server: Postgres): Manager {
    const client = postgresClient({ pool: this.pool(server), namespace, listen: false })
    const manager = new Manager({ client })
    this.#ends.push(
      () => client.close(),
      () => manager.stop(),
    )
    return manager
  }

  /** The processes of the primary that wait for the standby. */
  async waiting(): Promise<readonly number[]> {
    const { rows } = await this.#admin.query<{ pid: number }>(
      `SELECT pid FROM pg_stat_activity WHERE application_name = 'leases' AND wait_event = 'SyncRep'`,
    )
    return rows.map(({ pid }) => pid)
  }

  async terminate(pids: readonly number[]): Promise<void> {
    await this.#admin.query('SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid', [pids])
  }

  async cancel(pids: readonly number[]): Promise<void> {
    await this.#admin.query('SELECT pg_cancel_backend(pid) FROM unnest($1::int[]) AS pid', [pids])
  }

  /** Kills the primary and makes a primary of the standby. */
  async promote(): Promise<void> {
    await this.pair.primary.kill()
    if (this.pair.standby.pid === undefined) await this.pair.standby.restart()
    await this.pair.promote()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#ends.toReversed()) await end()
    await this.pair.stop()
  }

  get #admin(): Pool {
    return (this.#adminPool ??= this.pool(this.pair.primary))
  }
  #adminPool: Pool | undefined
}

type Answer = Pick<Verdict, 'outcome'>

async function one(substrate: PostgresSubstrate, op: Op): Promise<Answer> {
  const [verdict] = await substrate.apply([op], newCall(patient))
  return verdict ?? expect.fail()
}

/** Whether it has an answer, and which. */
function watched(call: Promise<Answer>): { answered: boolean; readonly outcome: Promise<string> } {
  const outcome = call.then(
    (answer) => answer.outcome,
    () => 'unknown',
  )
  const state = { answered: false, outcome: outcome.finally(() => (state.answered = true)) }
  return state
}

for (const version of enoughOf([18, 15] as const)) {
  describe(`a standby of PostgreSQL ${version}`, () => {
    let fixture: Fixture
    before(async () => {
      fixture = await Fixture.open(version)
    })
    after(() => fixture[Symbol.asyncDispose]())

    it('is refused for claims, renewals and releases, and for reads', async () => {
      const { primary, standby } = fixture.pair
      const lease = unique('lease')
      const op = claim(lease, 'a', longMs)
      const { fencingToken, nonce } = await grant(fixture.substrate(primary), op)
      const counted = unique('counted')
      const share = { weight: 1, capacity: 1, passing: 0, lapsed: new Map() }
      const ofShare = claim(`${counted}#a`, 'a', longMs, { share })
      const held = await grant(fixture.substrate(primary), ofShare)
      await fixture.pair.caughtUp()
      const there = fixture.substrate(standby)
      const ops: Op[] = [
        ofShare,
        ...[`${counted}#a`, `${counted}#b`, `${unique('counted')}#a`].map((name) =>
          claim(name, 'b', longMs, { share }),
        ),
        release(`${counted}#a`, 'a', { fencingToken: held.fencingToken }),
        { kind: 'define', lease: `${counted}#`, capacity: 2, from: 'g', generation: 'h' },
        { kind: 'define', lease: `${unique('counted')}#`, capacity: 2, from: undefined, generation: 'g' },
        claim(unique('free'), 'b', longMs),
        op,
        extend(lease, 'a', longMs, { fencingToken }),
        release(lease, 'a', { fencingToken }),
        pin(lease, 'entity'),
      ]
      for (const one of ops) {
        const [verdict] = await there.apply([one], newCall(patient))
        expect(verdict, one.kind).to.have.property('outcome', 'unknown')
        expect((verdict as { readonly cause: Error }).cause.message, one.kind).to.match(advice)
      }
      for (const read of [
        () => there.read([lease], newCall(patient)),
        () => there.read([lease], newCall(patient), [lease]),
        () => there.read(undefined, newCall(patient)),
        () => there.pinned(newCall(patient)),
        () => there.counted(`${counted}#`, newCall(patient)),
        () => there.time(newCall(patient)),
      ]) {
        expect((await caught(read())).message).to.match(advice)
      }
      expect(await readOne(fixture.substrate(primary), lease)).to.include({ holder: 'a', fencingToken, nonce })
    })

    it('is refused for both guards of a lease that is held', async () => {
      const { primary, standby } = fixture.pair
      const lease = unique('lease')
      const { fencingToken } = await grant(fixture.substrate(primary), claim(lease, 'a', longMs))
      await fixture.pair.caughtUp()
      const substrate = fixture.substrate(standby)
      const client = await fixture.pool(standby).connect()
      const inTransaction = async (guard: (client: PoolClient) => Promise<unknown>): Promise<Error> => {
        await client.query('BEGIN')
        const error = await caught(guard(client))
        await client.query('ROLLBACK')
        return error
      }
      try {
        const byKey = await inTransaction(() => substrate.trapdoor(lease, 'a', fencingToken)(client))
        expect(byKey.message).to.match(/read-only/)
        const guard = new SqlGuard(1)
        await substrate.trapdoor(lease, 'a', fencingToken)(guard)
        const byPredicate = await inTransaction(() => client.query(`SELECT ${guard.text} AS held`, [...guard.values]))
        expect(byPredicate).to.have.property('code', '25006')
      } finally {
        client.release()
      }
    })

    it('is refused by a manager, whose error names the primary', async () => {
      const manager = fixture.manager(fixture.pair.standby)
      const refusals = [
        () => manager.claim(unique('lease'), 'a', { minutes: 10 }),
        () => manager.token('lease', 'a').check(),
        () => manager.leases(),
      ]
      for (const call of refusals) {
        const error = await caught(call())
        expect(error).to.have.property('code', 'LEASE_UNKNOWN')
        expect(chain(error)).to.match(advice)
      }
      const warnings = await fixture.substrate(fixture.pair.standby).inspect(newCall(patient))
      expect(warnings.map(({ warning }) => warning)).to.include('standby')
    })
  })

  describe(`a synchronous standby of PostgreSQL ${version}`, () => {
    let fixture: Fixture
    before(async () => {
      fixture = await Fixture.open(version)
      await fixture.pair.synchronous('on')
    })
    beforeEach(async () => {
      if (fixture.pair.standby.pid === undefined) await fixture.pair.standby.restart() // a test has failed half-way
    })
    after(() => fixture[Symbol.asyncDispose]())

    interface Sent {
      readonly substrate: PostgresSubstrate
      readonly lease: string
      readonly nonce: string
    }

    /** What is sent again and again. */
    const requests: Readonly<Record<string, (sent: Sent) => Promise<Answer>>> = {
      claim: ({ substrate, lease, nonce }) => one(substrate, claim(lease, 'a', longMs, { nonce })),
      'claim of somebody who waits': ({ substrate, lease, nonce }) =>
        one(substrate, claim(lease, 'a', longMs, { nonce, place: 0 })),
      extension: async ({ substrate, lease }) => one(substrate, extend(lease, 'held', longMs, { fencingToken: token })),
      'claim of a share': ({ substrate, lease, nonce }) => {
        const share = { weight: 1, capacity: 1, passing: 0, lapsed: new Map() }
        return one(substrate, claim(lease, 'a', longMs, { nonce, share }))
      },
      pin: async ({ substrate, lease, nonce }) => one(substrate, pin(lease, 'entity', nonce)),
    }
    const ofHeld = ['extension', 'pin']
    let token = 0n

    const ways = {
      'its connection was terminated': async () => fixture.terminate(await fixture.waiting()),
      // PostgreSQL then answers COMMIT with success, and warns.
      'its wait was cancelled': async () => fixture.cancel(await fixture.waiting()),
      'the primary was killed': async () => {
        await fixture.pair.primary.kill()
        await fixture.pair.primary.restart()
      },
    }
    const tried = [
      ...Object.keys(requests).map((kind) => [kind, 'its connection was terminated'] as const),
      ...['claim', 'extension'].map((kind) => [kind, 'its wait was cancelled'] as const),
      ['claim', 'the primary was killed'] as const,
    ]
    for (const [kind, how] of tried) {
      it(`that is down grants no ${kind}, and none that is sent again because ${how}`, async () => {
        const { primary, standby } = fixture.pair
        const substrate = fixture.substrate(primary)
        const lease = kind === 'claim of a share' ? `${unique('counted')}#a` : unique('lease')
        const sent = { substrate, lease, nonce: unique('nonce') }
        if (ofHeld.includes(kind)) ({ fencingToken: token } = await grant(substrate, claim(sent.lease, 'held', 60_000)))
        const request = requests[kind] ?? expect.fail()
        await standby.kill()
        // The first is committed on the primary alone, so the others find what it has done.
        for (let times = 0; times < 3; times++) {
          const call = watched(request(sent))
          await until(
            `the ${kind} waits for the standby`,
            async () => call.answered || (await fixture.waiting()).length > 0,
          )
          expect(call.answered).to.equal(false)
          await ways[how]()
          expect(await call.outcome).to.equal('unknown')
          await until('it is committed on the primary', async () =>
            readOne(substrate, sent.lease).catch(() => undefined),
          )
        }
        const last = request(sent)
        await standby.restart()
        expect((await last).outcome).to.equal('granted')
        expect(await readOne(substrate, sent.lease)).to.have.property('holder')
      })
    }

    it('that is down lets no transaction of inTransaction succeed whose wait was cancelled', async () => {
      const { primary, standby } = fixture.pair
      const pool = fixture.pool(primary)
      await standby.kill()
      const call = caught(inTransaction(pool, (connection) => connection.query('CREATE TABLE work (done integer)')))
      await until('its COMMIT waits for the standby', async () => (await fixture.waiting()).length > 0)
      await fixture.cancel(await fixture.waiting())
      expect((await call).message).to.match(/committed on the primary, and may be on no standby/)
      await standby.restart()
      await inTransaction(pool, (connection) => connection.query('DROP TABLE work'))
    })

    it('has, once promoted, the leases, their fencing tokens and pins; tokens go on rising', async () => {
      const before = fixture.substrate(fixture.pair.primary)
      const [kept, ended, pinned] = [unique('kept'), unique('ended'), unique('pinned')]
      const first = await grant(before, claim(kept, 'a', longMs))
      const waits = async (one: PostgresSubstrate) => (await settle(one, claim(kept, 'w', longMs, { place: 0 }))).ticket
      const ticket = await waits(before)
      const over = await grant(before, claim(ended, 'a', longMs))
      await settle(before, release(ended, 'a', { fencingToken: over.fencingToken }))
      const { fencingToken: latest } = await grant(before, claim(pinned, 'a', longMs))
      await settle(before, pin(pinned, 'entity'))

      await fixture.promote()
      const after = fixture.substrate(fixture.pair.standby)
      expect(await readOne(after, kept)).to.include({ holder: 'a', fencingToken: first.fencingToken })
      expect(await settle(after, claim(kept, 'b', longMs))).to.have.property('outcome', 'refused')
      // Of the queue nothing is left but that tickets rise. Anyone who had one keeps it.
      const next = await waits(after)
      expect(next?.ahead).to.equal(0)
      expect(next?.place).to.be.greaterThan(ticket?.place ?? expect.fail())
      const again = await settle(after, claim(kept, 'w', longMs, { place: ticket?.place }))
      expect(again.ticket).to.deep.equal(ticket)
      await grant(after, extend(kept, 'a', longMs, { fencingToken: first.fencingToken }))
      expect([...((await after.pinned(newCall(patient))).get(pinned) ?? [])].map(([entity]) => entity)).to.deep.equal([
        'entity',
      ])
      await settle(after, release(kept, 'a', { fencingToken: first.fencingToken }))
      for (const [lease, former] of [
        [kept, first.fencingToken],
        [ended, over.fencingToken],
        [unique('new'), latest],
      ] as const) {
        const { fencingToken } = await grant(after, claim(lease, 'b', longMs))
        expect(fencingToken > former, `${lease}: ${fencingToken} after ${former}`).to.equal(true)
      }
    })
  })

  describe(`an asynchronous standby of PostgreSQL ${version}`, () => {
    it('forgets, once promoted, the grants that it had not got; the next one has a higher fencing token', async () => {
      await using fixture = await Fixture.open(version)
      const before = fixture.substrate(fixture.pair.primary)
      const [early, late] = [unique('early'), unique('late')]
      const kept = await grant(before, claim(early, 'a', longMs))
      await fixture.pair.caughtUp()
      await fixture.pair.standby.kill()
      const lost = await grant(before, claim(late, 'a', longMs))

      await fixture.promote()
      const after = fixture.substrate(fixture.pair.standby)
      expect(await readOne(after, early)).to.include({ holder: 'a', fencingToken: kept.fencingToken })
      const second = await grant(after, claim(late, 'b', longMs))
      expect(second.fencingToken > lost.fencingToken).to.equal(true)
    })
  })
}

/** The messages of an error and of its causes. */
function chain(error: unknown): string {
  return error instanceof Error ? `${error.message}; ${chain(error.cause)}` : ''
}
