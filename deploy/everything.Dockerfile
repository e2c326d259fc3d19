# The sample MCP server of compose.yaml and of the Kubernetes manifests: the reference server of the protocol's project, as
# it comes from the npm registry. It knows nothing of OAuth.
FROM node:22-slim
RUN npm install --global --ignore-scripts --no-fund --no-audit @modelcontextprotocol/server-everything@2026.8.31 \
 && npm cache clean --force
ENV NODE_ENV=production PORT=3001
USER 1000:1000
EXPOSE 3001
# Node as the first process does not stop by itself on SIGTERM; run it with an init (compose.yaml does).
CMD ["mcp-server-everything", "streamableHttp"]
