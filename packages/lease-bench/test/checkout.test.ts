import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { checkoutAt } from '#src/checkout.ts'

describe('bench: the folder of another checkout', () => {
  let folder: string

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lease-bench-'))
  })

  after(() => rm(folder, { recursive: true }))

  for (const bench of ['packages/lease-bench', 'bench']) {
    it(`is refused in one line that says what to do, step by step: with the benchmark in ${bench}`, async () => {
      await rm(join(folder, 'packages'), { recursive: true, force: true })
      expect(await refusal(), 'an empty folder').to.match(/ is no checkout of this project: /)
      await mkdir(join(folder, bench), { recursive: true })
      await writeFile(join(folder, bench, 'package.json'), '{ "name": "another" }')
      expect(await refusal(), 'another project').to.match(/ is no checkout of this project: /)
      await writeFile(join(folder, bench, 'package.json'), '{ "name": "lease-bench", "type": "module" }')
      expect(await refusal(), 'not built').to.match(/ is not built .*: run there: npx -y pnpm@10 install && /)
      await mkdir(join(folder, bench, 'dist', 'substrates'), { recursive: true })
      await writeFile(join(folder, bench, 'dist', 'arm-main.js'), '')
      await writeFile(join(folder, bench, 'dist', 'substrates', 'index.js'), "import 'not-installed-here'")
      expect(await refusal(), 'not installed').to.match(/ cannot be loaded \(.*not-installed-here.*\): run there: npx /)
    })
  }

  async function refusal(): Promise<string> {
    const error = await checkoutAt(folder).then(
      () => expect.fail('accepted'),
      (error: Error) => error,
    )
    expect(error.message).not.to.contain('\n')
    return error.message
  }
})
