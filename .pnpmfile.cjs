/**
 * What npm gets is without sources, so the published manifests have no condition that leads to them.
 */
const SOURCES = 'lease-source'

module.exports = {
  hooks: {
    beforePacking(manifest) {
      return { ...manifest, exports: withoutSources(manifest.exports), imports: withoutSources(manifest.imports) }
    },
  },
}

/** The same map of conditions, at every depth. */
function withoutSources(conditions) {
  if (typeof conditions !== 'object' || conditions === null) return conditions
  const kept = Object.entries(conditions).filter(([condition]) => condition !== SOURCES)
  return Object.fromEntries(kept.map(([condition, inner]) => [condition, withoutSources(inner)]))
}
