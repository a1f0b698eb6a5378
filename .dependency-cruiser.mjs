/**
 * The arrows of the house: who may import whom. Within lease-core a file imports from its own layer or an earlier one; a new
 * file is given its place here.
 */
const layers = [
  [
    'errors',
    'shown',
    'share',
    'turns',
    'lease',
    'unique-holder',
    'compacting-map',
    'latest-map',
    'once-per-lease',
    'abort-signal',
  ],
  [
    'clock',
    'skew',
    'elapsed-time',
    'observer',
    'backoff',
    'ticket',
    'events',
    'tracing',
    'client',
    'substrate',
    'store-clock',
    'store-call',
  ],
  ['option-reader'],
  ['options'],
  [
    'coalescer',
    'keyed-mutex',
    'timer-queue',
    'hint-stream',
    'hint-listeners',
    'hint-message',
    'hints',
    'passing-over',
    'observation',
    'calls',
  ],
  ['term', 'token', 'held', 'roles', 'renewal-op', 'renewals', 'resyncs', 'shared-reads', 'lease-states', 'store-link'],
  ['terms', 'term-renewal', 'round-trips'],
  ['settlement', 'claims', 'hold'],
  ['counted-leases', 'substrate-client', 'lease-waiters', 'wait-queue', 'reports', 'schemas'],
  ['manager'],
  ['adapter-parts'],
  ['index', 'adapter'],
]
const core = '^packages/lease-core/src/'
const adapters = {
  'lease-postgres': 'pg',
  'lease-redis': 'ioredis',
  'lease-etcd': 'etcd3',
  'lease-dynamodb': '@aws-sdk/client-dynamodb',
}
const published = `^packages/(lease-core|lease-recipes|lease-cron|lease-nestjs|lease-otel|lease-cli|lease-console|${Object.keys(adapters).join('|')})/src/`

const files = (names) => `${core}(${names.join('|')})\\.ts$`
const packages = (names) => `node_modules/(@types/)?(${names.join('|')})/`

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    {
      name: 'no-cycle',
      severity: 'error',
      comment: 'Files that need each other are one file, or want a third.',
      from: {},
      to: { circular: true },
    },
    {
      name: 'no-unresolvable',
      severity: 'error',
      comment:
        'An import that cannot be followed cannot be checked either. Prisma and ElectroDB are installed by the tests of their examples, VitePress by that of the site.',
      from: { path: '^(packages|docs)/', pathNot: '^(docs/examples/(prisma|electrodb)|packages/lease-site/engine)/' },
      to: { couldNotResolve: true },
    },
    {
      name: 'core-file-has-a-layer',
      severity: 'error',
      comment: 'Give the file its place in the list of layers.',
      from: { path: `${core}[^/]+\\.ts$`, pathNot: files(layers.flat()) },
      to: {},
    },
    ...layers.slice(0, -1).map((names, index) => ({
      name: `core-layer-${names.join('-')}`,
      severity: 'error',
      comment: `A file of this layer imports from it and from earlier ones: ${layers
        .slice(0, index + 1)
        .flat()
        .join(', ')}.`,
      from: { path: files(names) },
      to: { path: core, pathNot: files(layers.slice(0, index + 1).flat()) },
    })),
    {
      name: 'core-serves-no-test',
      severity: 'error',
      comment: 'testing/ and conformance/ are entry points of their own; nothing else in src may need them.',
      from: { path: core, pathNot: `${core}(testing|conformance)/` },
      to: { path: `${core}(testing|conformance)/` },
    },
    {
      name: 'core-knows-no-other-package',
      severity: 'error',
      comment: 'Adapters plug in from outside; core never names a substrate.',
      from: { path: core },
      to: { path: '^(packages|docs)/', pathNot: core },
    },
    {
      name: 'core-needs-luxon-and-zod-only',
      severity: 'error',
      from: { path: core },
      to: { path: 'node_modules/', pathNot: packages(['luxon', 'zod']) },
    },
    ...Object.entries(adapters).flatMap(([name, driver]) => [
      {
        name: `${name}-sees-core-and-its-driver-only`,
        severity: 'error',
        from: { path: `^packages/${name}/src/` },
        to: { path: 'node_modules/', pathNot: packages([driver]) },
      },
      {
        name: `${name}-sees-the-front-door-of-core`,
        severity: 'error',
        from: { path: `^packages/${name}/src/` },
        to: { path: '^(packages|docs)/', pathNot: [`^packages/${name}/src/`, `${core}(index|adapter)\\.ts$`] },
      },
      {
        name: `${name}-names-core-by-package`,
        severity: 'error',
        from: { path: `^packages/${name}/src/` },
        to: { path: core, dependencyTypes: ['local'], dependencyTypesNot: ['aliased-workspace', 'npm', 'npm-peer'] },
      },
    ]),
    {
      name: 'no-dev-dependency-in-src',
      severity: 'error',
      comment: 'It would be missing where the package is installed.',
      from: { path: published },
      to: { dependencyTypes: ['npm-dev'], dependencyTypesNot: ['npm-peer', 'type-only'] },
    },
    {
      name: 'no-undeclared-dependency',
      severity: 'error',
      from: { path: '^(packages|docs)/' },
      to: { dependencyTypes: ['npm-no-pkg', 'npm-unknown'], dependencyTypesNot: ['npm-peer'] },
    },
    {
      name: 'src-serves-no-test',
      severity: 'error',
      from: { path: '^packages/[^/]+/src/' },
      to: { path: '^packages/[^/]+/test/' },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '(^|/)(dist|\\.test-js)/' },
    combinedDependencies: false,
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.base.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['lease-source', 'import', 'types', 'default'],
      extensions: ['.ts', '.js', '.json'],
    },
  },
}
