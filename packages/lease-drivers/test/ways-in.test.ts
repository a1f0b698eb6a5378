import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'chai'
import { ErrNotHeld, ErrTrapdoor, Manager, type Token } from 'lease-core'
import { migrate, postgresClient, PostgresSubstrate, SqlGuard } from 'lease-postgres'
import { claim, newCall, unique } from 'lease-scenes'
import { freshDatabase, isMatrix, postgresTargets, type FreshDatabase } from 'lease-servers'
import { Pool } from 'pg'
import { waysIn, type Driver } from './ways-in.ts'

const NAMESPACE = 'ways-in'

async function failure(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  )
}

/** Formatters break lines, and end lists with commas. */
const compact = (code: string): string => code.replace(/\s+/g, '').replace(/,(?=[)\]}])/g, '')
const read = async (path: string): Promise<string> => readFile(join(process.cwd(), path), 'utf8')

/** The rows of the table: name, key, predicate. The code is between backticks, double ones where it has some itself. */
async function rows(): Promise<ReadonlyMap<string, { readonly key: string; readonly predicate: string }>> {
  const page = await read('docs/substrates/postgres.md')
  const table = /\n\| with \|[^]*?\n\n/.exec(page)?.[0] ?? ''
  const found = [...table.matchAll(/^\| (?<name>.+?) \| (?<key>`+.+?`+) \| (?<predicate>`+.+?`+) \|$/gm)]
  const code = (cell = ''): string => cell.replace(/^`+ ?| ?`+$/g, '')
  return new Map(
    found.map(({ groups }) => [
      groups?.['name'] ?? '',
      { key: code(groups?.['key']), predicate: code(groups?.['predicate']) },
    ]),
  )
}

for (const target of postgresTargets().slice(0, 1)) {
  describe(`ways in, on ${target.name}`, () => {
    let database: FreshDatabase
    let pool: Pool
    let substrate: PostgresSubstrate
    let client: ReturnType<typeof postgresClient>
    let manager: Manager
    let lease: string
    let token: Token
    before(async () => {
      database = await freshDatabase(target)
      pool = new Pool({ connectionString: database.url })
      await migrate(pool)
      await pool.query('CREATE TABLE account (id integer PRIMARY KEY, balance integer NOT NULL)')
      substrate = new PostgresSubstrate({ pool, namespace: NAMESPACE })
      client = postgresClient({ pool, namespace: NAMESPACE, listen: false })
      manager = new Manager({ client })
    })
    after(async () => {
      await manager.stop()
      await client.close()
      await substrate.close()
      await pool.end()
      await database.drop()
    })
    beforeEach(async () => {
      await pool.query('TRUNCATE account')
      await pool.query('INSERT INTO account VALUES (1, 100)')
      lease = unique('job')
      token = await manager.claim(lease, 'ann', { minutes: 1 })
    })

    const balance = async (): Promise<unknown> => (await pool.query('SELECT balance FROM account')).rows[0].balance
    /** An operator takes the lease away. Ann does not know yet. */
    const takeAway = async (): Promise<void> => {
      await pool.query('UPDATE lease SET holder = NULL WHERE name = $1', [lease])
      expect((await substrate.apply([claim(lease, 'ben', 60_000)], newCall()))[0]?.outcome).to.equal('granted')
    }
    const claimedByBen = async (): Promise<string | undefined> =>
      (await substrate.apply([claim(lease, 'ben', 60_000)], newCall()))[0]?.outcome

    for (const { name, isMatrixOnly, open } of waysIn) {
      describe(name, () => {
        it('the page has a row for it, of the code that runs here', async () => {
          const row = (await rows()).get(name)
          expect(row, `no row for ${name}`).to.be.an('object')
          const source = compact(
            (await read('packages/lease-drivers/test/ways-in.ts')).replaceAll(/: string(\[\])?(?=[,)])/g, ''),
          )
          expect(source)
            .to.include(compact(row?.key ?? ''))
            .and.include(compact(row?.predicate ?? ''))
        })

        if (isMatrixOnly && !isMatrix()) {
          it.skip('guards what it writes (skipped: in test:matrix, for such libraries take a second to load)', () => {})
          return
        }

        let driver: Driver<never>
        before(async () => (driver = await open(database.url)))
        after(() => driver.close())
        const guardOf = async (): Promise<SqlGuard> => {
          const guard = new SqlGuard(2)
          await token.check(guard)
          return guard
        }

        it('the key: the holder writes, and nobody else is granted the lease before the transaction ends', async () => {
          await driver.transact(async (tx) => {
            await driver.check(tx, token)
            await driver.set(tx, 90)
            await manager.release(lease, 'ann')
            expect(await claimedByBen()).to.equal('contended')
          })
          expect(await claimedByBen()).to.equal('granted')
          expect(await balance()).to.equal(90)
        })

        it('the key: a former holder is refused, and what it has written is rolled back', async () => {
          await takeAway()
          const work = driver.transact(async (tx) => {
            await driver.set(tx, 90)
            await driver.check(tx, token)
          })
          expect(await failure(work)).to.be.instanceOf(ErrNotHeld)
          expect(await balance()).to.equal(100)
        })

        it('the predicate: the holder writes, and nobody else is granted the lease before the transaction ends', async () => {
          const guard = await guardOf()
          await driver.transact(async (tx) => {
            const count = await driver.setGuarded(tx, 90, guard)
            expect(Number(count)).to.equal(1)
            guard.assertHeld(count)
            await manager.release(lease, 'ann')
            expect(await claimedByBen()).to.equal('contended')
          })
          expect(await claimedByBen()).to.equal('granted')
          expect(await balance()).to.equal(90)
        })

        it('the predicate: a former holder writes nothing, and is refused', async () => {
          const guard = await guardOf()
          await takeAway()
          const work = driver.transact(async (tx) => guard.assertHeld(await driver.setGuarded(tx, 90, guard)))
          expect(await failure(work)).to.be.instanceOf(ErrNotHeld)
          expect(await balance()).to.equal(100)
        })

        it('its client, and what else has a connection, is refused as a key: it is outside of the transaction', async () => {
          const line = compact((await rows()).get(name)?.key ?? '')
          const keys = [...driver.mistaken]
          const work = driver.transact(async (tx) => {
            if (name === 'Slonik') keys.push(tx)
            for (const key of keys) {
              const refusal = await failure(token.check(key))
              expect(refusal).to.be.instanceOf(ErrTrapdoor)
              const message = compact((refusal as Error).message)
              expect(message.includes(line) || message.includes('outsideofatransaction'), message).to.equal(true)
            }
            throw new Error('all were tried')
          })
          expect(await failure(work)).to.have.property('message', 'all were tried')
        })

        it('a key made of what is outside of the transaction is refused', async () => {
          expect(await failure(driver.check(driver.outside as never, token))).to.be.instanceOf(ErrTrapdoor)
        })
      })
    }
  })
}
