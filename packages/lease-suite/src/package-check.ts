/** The program that checks packages as npm would publish them, given their tarballs: it prints what is wrong, and ends with 1 then. */
import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { checkPackage, createPackageFromTarballData, type ResolutionKind } from '@arethetypeswrong/core'
import { problemKindInfo } from '@arethetypeswrong/core/problems'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'

/** Ways to resolve an import that find no type in a package of ES modules alone. */
const NOT_FOR_MODULES: ReadonlySet<ResolutionKind> = new Set<ResolutionKind>(['node10', 'node16-cjs'])

for (const file of process.argv.slice(2)) {
  for (const problem of await problemsIn(await readFile(file))) {
    process.exitCode = 1
    console.log(`${basename(file)}: ${problem}`)
  }
}

async function problemsIn(tarball: Uint8Array<ArrayBuffer>): Promise<string[]> {
  const { messages, pkg } = await publint({ pack: { tarball: tarball.slice().buffer }, strict: true })
  const types = await checkPackage(createPackageFromTarballData(tarball))
  const problems = types.types === false ? [] : types.problems
  return [
    ...messages.map((message) => formatMessage(message, pkg) ?? message.code),
    ...problems
      .filter((problem) => !('resolutionKind' in problem && NOT_FOR_MODULES.has(problem.resolutionKind)))
      .map((problem) => `${problemKindInfo[problem.kind].title}: ${JSON.stringify(problem)}`),
  ]
}
