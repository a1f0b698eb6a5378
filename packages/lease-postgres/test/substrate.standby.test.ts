/** A primary and its standby: what is refused there, what an answer waits for, and what a promotion keeps. */
import { expect } from 'chai'
import { Manager, type Verdict } from 'lease-core'
import { postgresTargets, startPostgresPair, until, type Postgres, type PostgresPair } from 'lease-servers'
import { migrate, postgresClient, PostgresSubstrate, SqlGuard } from 'lease-postgres'
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

/** Whether it has an answer, and which. */
function watched(call: Promise<readonly Verdict[]>): {
  answered: boolean
  readonly verdict: Promise<Verdict | undefined>
} {
  const state = { answered: false, verdict: call.then(([verdict]) => verdict).finally(() => (state.answered = true)) }
  return state
}

for (const version of [18, 15] as const) {
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
      await fixture.pair.caughtUp()
      const there = fixture.substrate(standby)
      const ops = [
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
        () => there.read(undefined, newCall(patient)),
        () => there.pinned(newCall(patient)),
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
    after(() => fixture[Symbol.asyncDispose]())

    /** Makes a claim that is committed on the primary alone: the standby is down, and whoever waited for it was ended. */
    async function committedHere(end: () => Promise<unknown>): Promise<ReturnType<typeof claim>> {
      const op = claim(unique('lease'), 'a', longMs)
      await fixture.pair.standby.kill()
      const first = watched(fixture.substrate(fixture.pair.primary).apply([op], newCall(patient)))
      await until('a claim waits for the standby', async () => first.answered || (await fixture.waiting()).length > 0)
      expect(first.answered).to.equal(false)
      await end()
      expect(await first.verdict).to.have.property('outcome', 'unknown')
      return op
    }

    const ways = {
      'its connection was terminated': async () => fixture.terminate(await fixture.waiting()),
      'the primary was killed': async () => {
        await fixture.pair.primary.kill()
        await fixture.pair.primary.restart()
      },
    }
    for (const [how, end] of Object.entries(ways)) {
      it(`that is down grants no claim, and none that is sent again because ${how}`, async () => {
        const op = await committedHere(end)
        const { primary, standby } = fixture.pair
        // The term stands on the primary, so this claim finds it.
        const found = async (): Promise<unknown> => readOne(fixture.substrate(primary), op.lease)
        await until('the claim is committed on the primary', async () => (await found()) !== undefined)
        for (let times = 0; times < 2; times++) {
          const again = watched(fixture.substrate(primary).apply([op], newCall(patient)))
          await until('the claim waits again', async () => again.answered || (await fixture.waiting()).length > 0)
          expect(again.answered).to.equal(false)
          await fixture.terminate(await fixture.waiting())
          expect(await again.verdict).to.have.property('outcome', 'unknown')
        }
        const last = fixture.substrate(primary).apply([op], newCall(patient))
        await standby.restart()
        const [verdict] = await last
        expect(verdict).to.have.property('outcome', 'granted')
        expect(await readOne(fixture.substrate(primary), op.lease)).to.include({
          holder: 'a',
          fencingToken: verdict?.holding?.fencingToken,
        })
      })
    }

    it('has, once promoted, the leases, their fencing tokens and pins; tokens go on rising', async () => {
      const before = fixture.substrate(fixture.pair.primary)
      const [kept, ended, pinned] = [unique('kept'), unique('ended'), unique('pinned')]
      const first = await grant(before, claim(kept, 'a', longMs))
      const over = await grant(before, claim(ended, 'a', longMs))
      await settle(before, release(ended, 'a', { fencingToken: over.fencingToken }))
      const { fencingToken: latest } = await grant(before, claim(pinned, 'a', longMs))
      await settle(before, pin(pinned, 'entity'))

      await fixture.promote()
      const after = fixture.substrate(fixture.pair.standby)
      expect(await readOne(after, kept)).to.include({ holder: 'a', fencingToken: first.fencingToken })
      expect(await settle(after, claim(kept, 'b', longMs))).to.have.property('outcome', 'refused')
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
