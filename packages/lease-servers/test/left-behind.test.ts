import { expect } from 'chai'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'

const program = `
  import { Client } from 'pg'
  import { startPostgres } from 'lease-servers'
  const server = await startPostgres()
  const client = new Client({ connectionString: server.url })
  await client.connect()
  const { rows } = await client.query("SELECT current_setting('data_directory') AS folder")
  if (process.argv.includes('paused')) server.pause()
  console.log(JSON.stringify({ pid: server.pid, folder: rows[0].folder }))
  if (process.argv.includes('throw')) throw new Error('on purpose')
  if (process.argv.includes('return')) await client.end()
  else setInterval(() => undefined, 1000)
`

describe('a server whose starter has ended', () => {
  async function startIn(...words: string[]): Promise<{ child: ChildProcess; pid: number; folder: string }> {
    const node = ['--import', 'tsx', '--conditions', 'lease-source', '--input-type=module', '-e', program, ...words]
    const child = spawn(process.execPath, node, {
      cwd: import.meta.dirname,
      stdio: ['ignore', 'pipe', 'ignore'],
      env: { ...process.env, NODE_OPTIONS: '' },
    })
    const [line] = (await once(child.stdout, 'data')) as [Buffer]
    return { child, ...(JSON.parse(String(line)) as { pid: number; folder: string }) }
  }

  async function gone(pid: number, folder: string): Promise<void> {
    for (let left = 500; left > 0 && (existsSync(folder) || runs(pid)); left--) {
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    expect(runs(pid), 'the process runs').to.equal(false)
    expect(existsSync(folder), 'the folder exists').to.equal(false)
  }

  function runs(pid: number): boolean {
    try {
      process.kill(pid, 0)
      return true
    } catch {
      return false
    }
  }

  for (const [name, state] of [
    ['SIGINT', 'running'],
    ['SIGKILL', 'running'],
    ['SIGKILL', 'paused'],
  ] as const) {
    it(`is gone with its folder after ${name}, ${state}`, async () => {
      const { child, pid, folder } = await startIn(state)
      child.kill(name)
      await gone(pid, folder)
    })
  }

  for (const end of ['return', 'throw']) {
    it(`is gone with its folder after a ${end} without stop`, async () => {
      const { pid, folder } = await startIn(end)
      await gone(pid, folder)
    })
  }
})
