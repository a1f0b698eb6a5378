/** The program that checks packages as npm would publish them, given their tarballs: it prints what is wrong, and ends with 1 then. */
import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { checkPackage, createPackageFromTarballData, type Package, type ResolutionKind } from '@arethetypeswrong/core'
import { problemKindInfo } from '@arethetypeswrong/core/problems'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'

/** What each package must have. */
const FILES = ['LICENSE', 'README.md', 'dist/index.js', 'dist/index.d.ts']
const FIELDS = ['author', 'description', 'keywords', 'license']
/** What no package has: sources, and what leads to them (docs/decisions/0042-packages-without-sources-and-maps.md). */
const NOT_PUBLISHED = /\/src\/|\.map$/
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
  const contents = createPackageFromTarballData(tarball)
  const types = await checkPackage(contents)
  const folder = `/node_modules/${contents.packageName}`
  const manifest = readManifest(contents, folder)
  const problems = types.types === false ? [] : types.problems
  return [
    ...FILES.filter((file) => !contents.fileExists(`${folder}/${file}`)).map((file) => `has no ${file}`),
    ...FIELDS.filter((field) => !(field in manifest)).map((field) => `its package.json says no ${field}`),
    ...contents
      .listFiles()
      .filter((file) => NOT_PUBLISHED.test(file.slice(folder.length)))
      .map((file) => `has ${file.slice(folder.length + 1)}`),
    ...contents
      .listFiles()
      .filter((file) => /^\/\/# sourceMappingURL=/m.test(contents.readFile(file)))
      .map((file) => `has no map, and ${file.slice(folder.length + 1)} names one`),
    ...(JSON.stringify(manifest).includes('"lease-source":')
      ? ['its package.json leads to sources: pack with pnpm 10.28 or later, which reads .pnpmfile.cjs']
      : []),
    ...(/"(?:catalog|workspace):/.test(JSON.stringify(manifest))
      ? ['its package.json names versions that only pnpm knows']
      : []),
    ...messages.map((message) => formatMessage(message, pkg) ?? message.code),
    ...problems
      .filter((problem) => !('resolutionKind' in problem && NOT_FOR_MODULES.has(problem.resolutionKind)))
      .map((problem) => `${problemKindInfo[problem.kind].title}: ${JSON.stringify(problem)}`),
  ]
}

function readManifest(contents: Package, folder: string): Readonly<Record<string, unknown>> {
  return JSON.parse(contents.readFile(`${folder}/package.json`)) as Readonly<Record<string, unknown>>
}
