import { expect } from 'chai'
import { execFile, spawn } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, utimes } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isMatrix, programOf, until } from 'lease-servers'
import { root } from '#src/test-files.ts'

interface Ended {
  readonly code: number
  readonly output: string
}

/** As package.json starts it. */
const asInPackageJson = ['--import', 'tsx', '--conditions', 'lease-source', 'packages/lease-suite/src/main.ts']
/** Compiled: starting it takes a fraction of the time. */
const compiled = programOf('../src/main.ts', import.meta.url)

/** Each start of the command loads and builds what the run that tests it has built: two seconds. */
const matrixOnly = isMatrix() ? it : it.skip

/** Runs the test command. */
async function suite(
  args: readonly string[],
  { env = {}, program = compiled }: { readonly env?: NodeJS.ProcessEnv; readonly program?: readonly string[] } = {},
): Promise<Ended> {
  const options = { cwd: root, env: { ...process.env, ...env } }
  return await new Promise((resolve) => {
    execFile(process.execPath, [...program, ...args], options, (error, stdout, stderr) => {
      resolve({
        code: typeof error?.code === 'number' ? error.code : error === null ? 0 : -1,
        output: `${stdout}${stderr}`,
      })
    })
  })
}

const quick = 'packages/lease-core/test/testing.while-live.test.ts'

describe('the test command', () => {
  let folder: string
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lease-suite-test-'))
  })
  after(async () => {
    await rm(folder, { recursive: true, force: true })
  })

  it('runs one file, closes with the counts, and writes every outcome where it is asked to', async () => {
    const json = join(folder, 'outcomes.json')
    const { code, output } = await suite(['file', quick, '--json', json], {
      program: isMatrix() ? asInPackageJson : compiled,
    })
    expect(code, output).to.equal(0)
    expect(output.trim().split('\n').at(-1)).to.match(/^\d+ passed, 0 failed$/)
    const written = JSON.parse(await readFile(json, 'utf8')) as { passed: number; files: { tests: unknown[] }[] }
    expect(written.files[0]?.tests).to.have.length(written.passed)
  })

  matrixOnly('soaks: counts the runs, writes them where it is asked to, and begins anew once it is done', async () => {
    const json = join(folder, 'runs.json')
    const args = ['soak', '2', quick, '-g', 'in time', '--busy', '1', '--json', json]
    for (const _ of [1, 2]) {
      const { code, output } = await suite(args)
      expect(code, output).to.equal(0)
      expect(output).not.to.contain('goes on after')
      expect(output.trim().split('\n').at(-1)).to.equal('2 passed, 0 failed')
    }
    const runs = JSON.parse(await readFile(json, 'utf8')) as { failed: unknown[] }[]
    expect(runs.map(({ failed }) => failed)).to.deep.equal([[], []])
  })

  matrixOnly('runs a file again when a source has changed, and ends with Ctrl-C', async () => {
    const child = spawn(process.execPath, [...compiled, 'file', quick, '--watch'], { cwd: root })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text))
    const ended = new Promise((resolve) => child.once('exit', resolve))
    const runs = (): number => output.match(/^\d+ passed, 0 failed$/gm)?.length ?? 0
    await until('the first run', () => runs() >= 1 && output.includes('waiting for a change'))
    const now = new Date()
    await utimes(join(root, quick), now, now)
    await until('a second run', () => runs() >= 2)
    child.kill('SIGINT')
    expect(await ended, output).to.equal(130)
  })

  matrixOnly('fails when no test matches', async () => {
    const { code, output } = await suite(['file', quick, '-g', 'no test is called so'])
    expect(code).to.equal(1)
    expect(output).to.contain('no test matches no test is called so')
  })

  for (const [what, args, says] of [
    ['a file that is no test', ['file', 'README.md'], 'README.md is no test file'],
    ['an option it does not know', ['file', quick, '--fast'], "unknown option '--fast'"],
    ['a count that is no number', ['soak', 'often'], 'It must be a whole number.'],
    ['a count of zero', ['soak', '0'], 'It must be at least 1.'],
    ['a grep that is no pattern', ['file', quick, '-g', '('], '-g must be a regular expression'],
  ] as const) {
    const declare = what === 'a file that is no test' ? it : matrixOnly
    declare(`refuses ${what} in one line`, async () => {
      const { code, output } = await suite(args)
      expect(code).to.equal(1)
      expect(output.trim().split('\n')).to.have.length(1)
      expect(output).to.contain(says)
    })
  }

  matrixOnly('says in one line that a server that was named does not answer, and leaves nothing behind', async () => {
    const url = 'postgres://postgres@127.0.0.1:1/postgres'
    const file = 'packages/lease-postgres/test/guard.sql.test.ts'
    const { code, output } = await suite(['file', file], { env: { DATABASE_URL: url, TMPDIR: folder } })
    expect(code).to.equal(1)
    expect(output).to.match(/^what DATABASE_URL names cannot be reached \(.*\): start it.*$/m)
    expect((await readdir(folder)).filter((name) => name.startsWith('lease-'))).to.deep.equal([])
  })
})
