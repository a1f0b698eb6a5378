import { expect } from 'chai'
import { enoughOf, freshDatabase, postgresTargets, until } from 'lease-servers'
import { openFleet, type RunningProgram } from './fleet.ts'

interface Shipment {
  readonly order_id: string
  readonly fencing_token: string
  readonly process: string
}

for (const target of enoughOf(postgresTargets())) {
  describe(`example: an elected consumer, on ${target.name}`, () => {
    it('finishes its order after SIGTERM, releases, and ends with 0; another process ships the next order', async () => {
      await using database = await freshDatabase(target)
      await using fleet = openFleet(database.url)
      const { pool } = fleet
      await pool.query(`CREATE TABLE orders (id bigint PRIMARY KEY);
        CREATE TABLE shipment (order_id bigint, fencing_token bigint, process text DEFAULT current_setting('application_name'))`)
      await pool.query('INSERT INTO orders SELECT generate_series(1, 3)')
      // Renewed after 5 of its 15 seconds. With less than 7 left it was lost: a machine stood still, and the lease lapses by itself.
      const holder = async (): Promise<string | undefined> => {
        const held = "name = 'shipping' AND holder IS NOT NULL AND expiry > clock_timestamp() + interval '7 s'"
        return (await pool.query<{ holder: string }>(`SELECT holder FROM lease WHERE ${held}`)).rows[0]?.holder
      }

      // No order can be shipped until this lock is gone.
      const blocker = await pool.connect()
      await blocker.query('BEGIN; LOCK TABLE shipment IN EXCLUSIVE MODE')
      const programs = ['a', 'b', 'c'].map((name) => fleet.start('./order-consumer.ts', { PGAPPNAME: name }))
      const first = await until('a consumer has an order', async () => {
        const { rows } = await pool.query<{ name: string }>(
          `SELECT application_name AS name FROM pg_stat_activity
           WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO shipment%'`,
        )
        return rows[0]?.name
      })
      for (const program of programs) await program.says(/^started/) // before that SIGTERM ends it at once
      const former = (await pool.query<{ holder: string }>("SELECT holder FROM lease WHERE name = 'shipping'")).rows[0]
      const [leader = expect.fail()] = programs.splice(['a', 'b', 'c'].indexOf(first), 1)
      leader.terminate()
      await leader.says(/^stopping/)
      await blocker.query('COMMIT')
      blocker.release()
      expect(await leader.ended(), leader.lines.join('\n')).to.equal(0)
      const saysWhy = (program: RunningProgram | undefined, why: RegExp): boolean =>
        program?.lines.some((line) => why.test(line)) === true
      if (!saysWhy(leader, /is not finished/)) expect(await holder()).not.to.equal(former?.holder)

      const shipments = async (): Promise<Shipment[]> =>
        (await pool.query<Shipment>('SELECT * FROM shipment ORDER BY order_id')).rows
      await until('all orders are shipped', async () => (await shipments()).length >= 3)
      for (const program of programs) program.terminate()
      for (const program of programs) expect(await program.ended(), program.lines.join('\n')).to.equal(0)
      expect(await holder()).to.equal(undefined)

      const [one, two, three, ...more] = await shipments()
      expect([one?.order_id, two?.order_id, three?.order_id, ...more]).to.deep.equal(['1', '2', '3'])
      expect(one?.process).to.equal(first)
      expect(two?.process).not.to.equal(first)
      const next = programs[['a', 'b', 'c'].filter((name) => name !== first).indexOf(two?.process ?? '')]
      // Unless a machine stood still: then the second leader says what it lost, and ships no more.
      if (!saysWhy(next, /^shipping/)) expect(three).to.deep.equal({ ...two, order_id: '3' })
      expect(three?.process).not.to.equal(first)
      expect(BigInt(two?.fencing_token ?? 0) > BigInt(one?.fencing_token ?? 0)).to.equal(true)
      expect(BigInt(three?.fencing_token ?? 0) >= BigInt(two?.fencing_token ?? 0)).to.equal(true)
    })
  })
}
