import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import type { Trapdoor } from 'lease-core'
import { LONGEST_DEADLINE_MS, SubstrateClient } from 'lease-core/adapter'
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

    describe('what the kit does not check', () => {
      let clients: readonly [SubstrateClient, SubstrateClient]
      beforeEach(() => {
        const [ann, ben] = [open('beside'), open('beside')]
        clients = [new SubstrateClient({ substrate: ann, clock }), new SubstrateClient({ substrate: ben, clock })]
      })
      afterEach(() => Promise.all(clients.map((client) => client.close())))

      for (const begin of ['BEGIN', 'BEGIN IMMEDIATE']) {
        it(`nobody is granted the lease between the check and COMMIT, after ${begin}`, async () => {
          const [ann, ben] = clients
          const lease = begin.replaceAll(' ', '-')
          await ann.claimLease(lease, { holder: 'ann', duration: 1_000 })
          const info = ann.leases().get(lease)
          mine.exec(begin)
          await info?.trapdoor(mine)
          await clock.advance(2_000) // it lapses
          let isGranted = false
          const claim = ben.claimLease(lease, { holder: 'ben', duration: 1_000 }).then(() => (isGranted = true))
          await clock.advance(1_000)
          expect(isGranted).to.equal(false)
          mine.exec('COMMIT')
          await clock.advance(1_000)
          await claim
        })
      }

      it('a vacant lease leaves no row', async () => {
        const [ann] = clients
        await ann.claimLease('once', { holder: 'ann', duration: 60_000 })
        await ann.releaseLease('once', 'ann')
        await ann.claimLease('lapsing', { holder: 'ann', duration: 1_000 })
        await clock.advance(LONGEST_DEADLINE_MS + 2_000)
        await ann.claimLease('another', { holder: 'ann', duration: 60_000 })
        const rows = mine.prepare(`SELECT lease FROM lease WHERE namespace = 'beside'`).all() as { lease: string }[]
        expect(rows.map(({ lease }) => lease)).to.deep.equal(['another'])
      })
    })

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
