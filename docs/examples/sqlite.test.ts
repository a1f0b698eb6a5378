import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SubstrateClient, type Trapdoor } from 'lease-core'
import { conformance, faultsOf } from 'lease-core/conformance'
import { FaultySubstrate, TestClock } from 'lease-core/testing'
import { ReopeningConnection, sqliteDrivers } from './sqlite-drivers.ts'
import { migrateSqlite, SqliteSubstrate } from './sqlite.ts'

for (const driver of sqliteDrivers) {
  describe(`example: an adapter for SQLite, over ${driver}`, () => {
    const clock = new TestClock()
    const connections: ReopeningConnection[] = []
    let folder: string
    let mine: ReopeningConnection

    function connect(): ReopeningConnection {
      const connection = new ReopeningConnection(driver, join(folder, 'leases.db'))
      connections.push(connection)
      return connection
    }

    function open(namespace: string): SqliteSubstrate {
      return new SqliteSubstrate(connect(), namespace, clock)
    }

    before(async () => {
      folder = await mkdtemp(join(tmpdir(), 'lease-sqlite-'))
      mine = connect()
      migrateSqlite(mine)
      mine.exec('CREATE TABLE written (text TEXT)')
    })
    after(async () => {
      for (const connection of connections) connection.close()
      await rm(folder, { recursive: true, force: true })
    })

    async function write(trapdoor: Trapdoor, text: string): Promise<void> {
      mine.exec('BEGIN IMMEDIATE')
      try {
        await trapdoor(mine)
        mine.prepare('INSERT INTO written VALUES (?)').run(text)
        mine.exec('COMMIT')
      } catch (error) {
        mine.exec('ROLLBACK')
        throw error
      }
    }

    conformance(
      { describe, it, before, after },
      {
        name: `the SQLite adapter over ${driver}`,
        supports: { notifications: false, serverClock: true, exactClock: true },
        clock,
        unitMs: 100,
        sleep: (delayMs) => clock.advance(delayMs),
        open: async (namespace) => new SubstrateClient({ substrate: open(namespace), clock }),
        openFaulty: async (namespace, requestTimeout) => {
          const substrate = new FaultySubstrate(open(namespace), { clock })
          return { client: new SubstrateClient({ substrate, clock, requestTimeout }), faults: faultsOf(substrate) }
        },
        restart: async () => {
          for (const connection of connections) connection.close()
          for (const connection of connections) connection.reopen()
        },
        guard: {
          write,
          written: async () =>
            (mine.prepare('SELECT text FROM written').all() as { text: string }[]).map((row) => row.text),
          outside: (trapdoor) => trapdoor(mine),
        },
      },
    )
  })
}
