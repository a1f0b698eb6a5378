import { expect } from 'chai'
import { Client } from 'pg'
import { enoughOf, isMatrix, type PostgresPair, postgresTargets, startPostgresPair, until } from 'lease-servers'

async function ask(url: string, text: string): Promise<unknown> {
  const client = new Client({ connectionString: url })
  client.on('error', () => undefined)
  await client.connect()
  try {
    const { rows } = await client.query<{ answer: unknown }>(text)
    return rows[0]?.answer
  } finally {
    await client.end()
  }
}

const waitsForStandby = `SELECT count(*)::int AS answer FROM pg_stat_activity WHERE wait_event = 'SyncRep'`

postgresTargets() // the same binaries

for (const version of enoughOf([18, 15] as const)) {
  describe(`a primary and a standby, PostgreSQL ${version}`, () => {
    let pair: PostgresPair
    let written = 0

    before(async () => {
      pair = await startPostgresPair({ version })
      await ask(pair.primary.url, 'CREATE TABLE written (n int)')
    })

    after(async () => {
      await pair.stop()
    })

    const write = async (url = pair.primary.url): Promise<unknown> =>
      ask(url, `INSERT INTO written VALUES (${++written}) RETURNING n AS answer`)
    const onStandby = async (): Promise<unknown> =>
      ask(pair.standby.url, 'SELECT count(*)::int AS answer FROM written').catch(() => undefined)

    it('are of that version, and the standby has what the primary had from the beginning', async () => {
      for (const { url } of [pair.primary, pair.standby]) {
        expect(await ask(url, `SELECT current_setting('server_version_num')::int / 10000 AS answer`)).to.equal(version)
      }
      expect(await ask(pair.primary.url, 'SELECT pg_is_in_recovery() AS answer')).to.equal(false)
      expect(await ask(pair.standby.url, 'SELECT pg_is_in_recovery() AS answer')).to.equal(true)
      const refused: unknown = await write(pair.standby.url).catch((error: unknown) => error)
      expect(refused).to.have.property('code', '25006')
      written--
    })

    const matrixOnly = isMatrix() ? it : it.skip // the standby starts once more for each
    matrixOnly('commit without the standby at first; it catches up when it is there again', async () => {
      await pair.standby.kill()
      await write()
      await pair.standby.restart()
      await until('the standby has caught up', async () => (await onStandby()) === written)
    })

    it('synchronous, a commit waits for the standby to come back', async () => {
      await pair.synchronous('on')
      await pair.standby.kill()
      let committed = false
      const commit = write().then(() => (committed = true))
      await until('it waits for the standby', async () => (await ask(pair.primary.url, waitsForStandby)) === 1)
      expect(committed).to.equal(false)
      await pair.standby.restart()
      await commit
    })

    matrixOnly('asynchronous again, it does not wait', async () => {
      await pair.synchronous('off')
      await pair.standby.kill()
      await write()
      await pair.standby.restart()
      await pair.synchronous('on')
    })

    it('the promoted standby goes on with what was committed, also after a restart', async () => {
      await write()
      await pair.primary.kill()
      await pair.promote()
      expect(await onStandby()).to.equal(written)
      await write(pair.standby.url)
      await pair.standby.restart()
      expect(await onStandby()).to.equal(written)
    })
  })
}
