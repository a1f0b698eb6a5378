import { expect } from 'chai'
import { enoughOf, freshDatabase, isMatrix, postgresTargets, until } from 'lease-servers'
import { openFleet } from './fleet.ts'

for (const target of enoughOf(postgresTargets())) {
  describe(`example: a report once an hour in five processes, on ${target.name}`, () => {
    const runs = [
      { title: 'writes the hour that was due once when all processes start', env: {}, hours: 1 },
      { title: 'writes each period once, here of a second', env: { SCHEDULE: '* * * * * *' }, hours: 3 },
    ]
    for (const { title, env, hours } of isMatrix() ? runs : runs.slice(0, 1)) {
      it(`${title}; each process ends with 0 after SIGTERM`, async () => {
        await using database = await freshDatabase(target)
        await using fleet = openFleet(database.url)
        const { pool } = fleet
        await pool.query('CREATE TABLE orders (at timestamptz); CREATE TABLE report (hour timestamptz, orders integer)')
        await pool.query("INSERT INTO orders VALUES ('2020-01-01'), ('2999-01-01')")
        const programs = Array.from({ length: 5 }, () => fleet.start('./hourly-report.ts', env))
        for (const program of programs) await program.says(/^(wrote|skipped|the report)/)
        // On a machine that stands still the store may not answer in time. The program says so, and that hour may not be written.
        const hasFailed = (): boolean =>
          programs.some(({ lines }) => lines.some((line) => line.startsWith('the report')))
        const written = async (): Promise<string[]> =>
          (await pool.query<{ hour: Date }>('SELECT hour FROM report')).rows.map(({ hour }) => hour.toISOString())
        await until('enough reports', async () => (await written()).length >= hours || hasFailed())
        for (const program of programs) program.terminate()
        for (const program of programs) expect(await program.ended(), program.lines.join('\n')).to.equal(0)

        const all = await written()
        expect(new Set(all)).to.have.property('size', all.length)
        const said = programs.flatMap(({ lines }) => lines.filter((line) => line.startsWith('wrote')))
        const reports = all.map((hour) => `wrote ${hour}`)
        expect(reports).to.include.members(said)
        const { rows: counts } = await pool.query('SELECT orders FROM report WHERE orders <> 1')
        expect(counts).to.deep.equal([])
        if (hasFailed()) return
        expect(said.toSorted()).to.deep.equal(reports.toSorted())
        const held = "SELECT name FROM lease WHERE name = 'once-per/report' AND holder IS NOT NULL"
        expect((await pool.query(held)).rows).to.deep.equal([])
      })
    }
  })
}
